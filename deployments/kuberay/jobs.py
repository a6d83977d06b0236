"""Jobs that must be done before the service starts."""

from __future__ import annotations

from collections.abc import Callable

from deployments.kuberay.cluster import Cluster
from deployments.kuberay.errors import ClusterError
from deployments.kuberay.manifests import Manifest, title

_LAST_WORDS = 20
_PAUSE_S = 2.0


def finish(
    cluster: Cluster,
    job: Manifest,
    timeout_s: float,
    say: Callable[[str], None],
    *,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> None:
    """Returns when the job is complete. One that fails, or is too slow, is a ClusterError, after its last words."""
    deadline = clock() + timeout_s
    say(f"{title(job)}: waiting")
    while True:
        found = cluster.get("Job", job["metadata"]["name"], "batch/v1") or {}
        conditions = found.get("status", {}).get("conditions", [])
        ended = {each["type"] for each in conditions if each["status"] == "True"}
        if "Complete" in ended:
            say(f"{title(job)}: complete")
            return
        if "Failed" in ended or clock() > deadline:
            for line in _last_words(cluster, job["metadata"]["name"]):
                say(f"  {line}")
            how = "failed" if "Failed" in ended else f"is not done after {timeout_s:.0f} s"
            raise ClusterError(f"{title(job)} {how}; the RayService was left as it was")
        pause(_PAUSE_S)


def _last_words(cluster: Cluster, job: str) -> list[str]:
    """Of its newest pod; none when that did not even start."""
    pods = cluster.find("Pod", f"batch.kubernetes.io/job-name={job}")
    newest = sorted(pods, key=lambda each: str(each["metadata"].get("creationTimestamp")))[-1:]
    try:
        return [line for pod in newest for line in cluster.log(pod["metadata"]["name"], _LAST_WORDS)]
    except ClusterError:
        return []
