"""The RayService in a cluster: brought out in the right order, waited for, remembered, taken back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import yaml

from deployments.kuberay import jobs, state
from deployments.kuberay.cluster import Cluster
from deployments.kuberay.errors import ClusterError
from deployments.kuberay.history import History, Revision
from deployments.kuberay.logs import serve_logs
from deployments.kuberay.manifests import Manifest, of_kind, ray_service, title
from deployments.kuberay.references import Reference

API = "ray.io/v1"
_KEPT_ON_DELETE = ("Namespace", "PersistentVolumeClaim", "PersistentVolume", "Secret", "ExternalSecret")
_PAUSE_S = 2.0

Say = Callable[[str], None]


class Service:
    """The RayService ``name``. ``say`` gets a line for each thing that happens."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        say: Say,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.history = History(cluster, name)
        self._cluster = cluster
        self._name = name
        self._say = say
        self._clock = clock
        self._pause = pause

    def missing(self, expected: list[Reference]) -> list[Reference]:
        """Those of the expected Secrets and keys that the cluster does not have."""
        names = sorted({each.name for each in expected})
        keys = {name: (self._cluster.get("Secret", name) or {}).get("data") for name in names}
        return [each for each in expected if not _has(keys[each.name], each.key)]

    def apply(self, manifests: list[Manifest], *, timeout_s: float, force: bool = False) -> None:
        """Everything, the jobs done, and only then the RayService: it finds a migrated database, and its models."""
        service = ray_service(manifests)
        for manifest in manifests:
            if manifest is not service:
                self._say(f"{title(manifest)}: {self._cluster.apply(manifest, force=force)}")
        for job in of_kind(manifests, "Job"):
            jobs.finish(self._cluster, job, timeout_s, self._say, clock=self._clock, pause=self._pause)
        self._say(f"{title(service)}: {self._cluster.apply(service, force=force)}")
        self.history.remember(service)

    def rehearse(self, manifests: list[Manifest], *, force: bool = False) -> None:
        """What applying would do, asked of the API server, which changes nothing."""
        for manifest in manifests:
            self._say(f"{title(manifest)}: would be {self._cluster.apply(manifest, force=force, dry_run=True)}")

    def status(self) -> state.Status:
        return state.read(self._live(), self.pods())

    def pods(self) -> list[Manifest]:
        """Head and workers, of the cluster that serves and of the next one."""
        return self._cluster.find("Pod", f"app.kubernetes.io/name={self._name},ray.io/is-ray-node=yes")

    def logs(self, pods: list[str], *, tail: int, follow: bool) -> Iterator[tuple[str, str]]:
        return serve_logs(self._cluster, pods, tail=tail, follow=follow)

    def wait(self, timeout_s: float) -> None:
        """Returns when the newest spec serves. Says what changes meanwhile."""
        deadline, said = self._clock() + timeout_s, set[str]()
        while not (status := self.status()).serving:
            lines = status.lines()
            for line in lines:
                if line not in said:
                    self._say(line)
            said = set(lines)
            if self._clock() > deadline:
                raise ClusterError(f"RayService {self._name} does not serve after {timeout_s:.0f} s: {_why(status)}")
            self._pause(_PAUSE_S)

    def rollback(self, number: int | None, *, force: bool = False) -> Revision:
        """Apply an earlier manifest again: the one before the newest, or ``number``. It becomes the newest revision."""
        wanted = self.history.pick(number)
        done = self._cluster.apply(wanted.manifest, force=force)
        self._say(f"{title(wanted.manifest)}: {done}, as in revision {wanted.number}")
        self.history.remember(wanted.manifest)
        return wanted

    def reload(self, stamp: str) -> None:
        """Start the replicas anew in the pods there are. ``stamp`` must be new: Serve restarts what changed."""
        live = self._live()
        config = yaml.safe_load(live["spec"]["serveConfigV2"])
        for application in config["applications"]:
            environment = application.setdefault("runtime_env", {}).setdefault("env_vars", {})
            environment["LLM_BACKEND_RELOADED"] = stamp
        self._cluster.merge(live, {"spec": {"serveConfigV2": yaml.safe_dump(config, sort_keys=False)}})
        self._say(f"{title(live)}: its replicas start anew")

    def _live(self) -> Manifest:
        found = self._cluster.get("RayService", self._name, API)
        if found is None:
            raise ClusterError(f"There is no RayService {self._name} in the namespace {self._cluster.namespace}")
        return found

    def delete(self, manifests: list[Manifest], *, data_too: bool) -> None:
        """The RayService first, with its pods. Volumes, Secrets and the namespace stay unless ``data_too``."""
        service = ray_service(manifests)
        for manifest in [service, *self.history.records(), *(each for each in reversed(manifests) if each != service)]:
            if manifest["kind"] in _KEPT_ON_DELETE and not data_too:
                self._say(f"{title(manifest)}: kept")
            else:
                self._say(f"{title(manifest)}: {'deleted' if self._cluster.delete(manifest) else 'was not there'}")


def _has(keys: dict[str, str] | None, key: str) -> bool:
    """``keys`` is None without a Secret; a ``key`` of "" means the whole."""
    return keys is not None and (not key or key in keys)


def _why(status: state.Status) -> str:
    """The most telling thing about a service that does not come."""
    problems = [f"pod {pod.name}: {pod.problem}" for pod in status.pods if pod.problem]
    failed = [f"{part.name}: {part.status} {part.message}" for part in status.parts if "FAILED" in part.status]
    return "; ".join([*failed, *problems][:3]) or "see `llm-backend k8s status` and `llm-backend k8s logs`"
