"""What was applied before. Kubernetes keeps no history of a RayService: it is kept in ControllerRevisions, as that of a
StatefulSet is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from deployments.kuberay.cluster import Cluster
from deployments.kuberay.errors import ClusterError
from deployments.kuberay.manifests import Manifest

_API = "apps/v1"
_KIND = "ControllerRevision"
_LABEL = "llm-backend/revision-of"
_KEPT = 10


@dataclass(frozen=True, slots=True)
class Revision:
    """A manifest that was applied before. ``number`` counts up from 1; equal manifests have equal digests."""

    number: int
    created: str
    manifest: Manifest

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()[:12]


class History:
    """The revisions of the RayService ``name``: the newest ten."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._name = name

    def revisions(self) -> list[Revision]:
        """Oldest first; the last is what was applied last."""
        found = self._cluster.find(_KIND, f"{_LABEL}={self._name}", _API)
        read = [
            Revision(each["revision"], str(each["metadata"].get("creationTimestamp", "")), each["data"])
            for each in found
        ]
        return sorted(read, key=lambda each: each.number)

    def pick(self, number: int | None) -> Revision:
        """The one with this number; without one, the last but one."""
        known = self.revisions()
        candidates = [each for each in known if each.number == number] if number else known[-2:-1]
        if not candidates:
            numbers = ", ".join(str(each.number) for each in known) or "none"
            raise ClusterError(f"There is no such revision to go back to; there are: {numbers}")
        return candidates[0]

    def remember(self, manifest: Manifest) -> None:
        known = self.revisions()
        new = Revision(known[-1].number + 1 if known else 1, "", manifest)
        if known and known[-1].digest == new.digest:
            return
        self._cluster.apply(self._record(new))
        for old in known[: max(len(known) + 1 - _KEPT, 0)]:
            self._cluster.delete(self._record(old))

    def records(self) -> list[Manifest]:
        return [self._record(each) for each in self.revisions()]

    def _record(self, revision: Revision) -> Manifest:
        return {
            "apiVersion": _API,
            "kind": _KIND,
            "metadata": {
                "name": f"{self._name}-{revision.number}",
                "namespace": self._cluster.namespace,
                "labels": {_LABEL: self._name},
            },
            "revision": revision.number,
            "data": revision.manifest,
        }
