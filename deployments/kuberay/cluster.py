"""One namespace of a Kubernetes cluster, through its API: objects applied, jobs and pods looked at, logs read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError, ResourceNotFoundError, UnprocessibleEntityError
from urllib3.exceptions import HTTPError

from deployments.kuberay.errors import ClusterError
from deployments.kuberay.manifests import Manifest, title

MANAGER = "llm-backend"
_PATIENCE_S = 30


@contextmanager
def connected(context: str | None, namespace: str) -> Iterator[Cluster]:
    """The cluster of the kubeconfig's context, or, inside a pod, the one the pod is in."""
    try:
        try:
            config.load_kube_config(context=context)  # type: ignore[no-untyped-call]
        except config.ConfigException:
            if context:
                raise
            config.load_incluster_config()  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise ClusterError(f"No cluster to talk to: {' '.join(str(error).split())}") from None
    with client.ApiClient() as api, tempfile.TemporaryDirectory() as folder, explained("connect"):
        yield Cluster(api, namespace, Path(folder) / "discovery.json")


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Every way in which a cluster says no becomes a ClusterError that says to what."""
    try:
        yield
    except ResourceNotFoundError as error:
        raise ClusterError(
            f"{doing}: this cluster lacks the operator for it ({' '.join(str(error).split())})"
        ) from None
    except client.ApiException as error:
        raise ClusterError(f"{doing}: {_message(error)}") from None
    except HTTPError as error:
        reason = getattr(error, "reason", None) or error
        raise ClusterError(f"{doing}: the cluster does not answer ({type(reason).__name__})") from None


def _message(error: client.ApiException) -> str:
    try:
        told = json.loads(error.body or "")["message"]
    except (ValueError, KeyError, TypeError):
        told = error.reason or "no reason given"
    return f"{' '.join(str(told).split())} (HTTP {error.status})"


class Cluster:
    """Use ``connected``. Not for several threads."""

    def __init__(self, api: client.ApiClient, namespace: str, cache: Path) -> None:
        self.namespace = namespace
        self.api = api
        self._dynamic = DynamicClient(api, cache_file=str(cache))  # type: ignore[no-untyped-call]
        self._core = client.CoreV1Api(api)

    def apply(self, manifest: Manifest, *, force: bool = False, dry_run: bool = False) -> str:
        """Server-side apply; ``created``, ``changed`` or ``unchanged``. A job that cannot change is made anew."""
        with explained(title(manifest)):
            before = self._find(manifest)
            try:
                after = self._apply(manifest, force=force, dry_run=dry_run)
            except UnprocessibleEntityError:
                if manifest["kind"] != "Job" or before is None or dry_run:
                    raise
                self.delete(manifest)
                after = self._apply(manifest, force=force, dry_run=dry_run)
        if before is None:
            return "created"
        same = before["metadata"].get("resourceVersion") == after["metadata"].get("resourceVersion")
        return "unchanged" if same else "changed"

    def _apply(self, manifest: Manifest, *, force: bool, dry_run: bool) -> Manifest:
        applied = self._kind(manifest).server_side_apply(
            body=manifest,
            namespace=manifest["metadata"].get("namespace"),
            field_manager=MANAGER,
            force_conflicts=force,
            _request_timeout=_PATIENCE_S,
            **({"dry_run": "All"} if dry_run else {}),
        )
        return _plain(applied)

    def merge(self, manifest: Manifest, change: Manifest) -> None:
        """Change these fields of what is there, and no others."""
        with explained(title(manifest)):
            self._kind(manifest).patch(
                body=change,
                name=manifest["metadata"]["name"],
                namespace=manifest["metadata"].get("namespace"),
                content_type="application/merge-patch+json",
                field_manager=MANAGER,
                _request_timeout=_PATIENCE_S,
            )

    def get(self, kind: str, name: str, api_version: str = "v1") -> Manifest | None:
        """None when there is none."""
        wanted = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": self.namespace}}
        with explained(f"{kind} {name}"):
            return self._find(wanted)

    def find(self, kind: str, selector: str, api_version: str = "v1") -> list[Manifest]:
        with explained(f"list of {kind}s"):
            kinds = self._dynamic.resources.get(api_version=api_version, kind=kind)
            found = kinds.get(namespace=self.namespace, label_selector=selector, _request_timeout=_PATIENCE_S)
        return [dict(each) for each in _plain(found)["items"]]

    def delete(self, manifest: Manifest) -> bool:
        """Gone from view or on its way, with what belongs to it; False when it was not there."""
        name, namespace = manifest["metadata"]["name"], manifest["metadata"].get("namespace")
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        with explained(title(manifest)):
            try:
                self._kind(manifest).delete(name=name, namespace=namespace, body=options, _request_timeout=_PATIENCE_S)
            except NotFoundError:
                return False
        return True

    def _kind(self, manifest: Manifest) -> Any:
        return self._dynamic.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])

    def _find(self, manifest: Manifest) -> Manifest | None:
        try:
            found = self._kind(manifest).get(
                name=manifest["metadata"]["name"],
                namespace=manifest["metadata"].get("namespace"),
                _request_timeout=_PATIENCE_S,
            )
        except NotFoundError:
            return None
        return _plain(found)

    def log(self, pod: str, tail: int) -> list[str]:
        """The last lines that the pod's first container wrote."""
        with explained(f"log of {pod}"):
            text = self._core.read_namespaced_pod_log(pod, self.namespace, tail_lines=tail)
        return str(text or "").splitlines()


def _plain(instance: Any) -> Manifest:
    plain: Manifest = instance.to_dict()
    return plain
