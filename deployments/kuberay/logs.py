"""Serve's logs from several pods at once. Ray keeps them in files of each pod, not on its output."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

from kubernetes import client, stream

from deployments.kuberay.cluster import Cluster, explained
from deployments.kuberay.errors import ClusterError

_CONTAINER = "ray"
_FILES = "/tmp/ray/session_latest/logs/serve/*.log"  # noqa: S108 (in the pod; Ray's own place)


def serve_logs(cluster: Cluster, pods: list[str], *, tail: int, follow: bool) -> Iterator[tuple[str, str]]:
    """Lines with their pod, as they come. Raises the first pod's ClusterError."""
    lines: queue.SimpleQueue[tuple[str, str] | ClusterError | None] = queue.SimpleQueue()

    def read(pod: str) -> None:
        try:
            with explained(f"logs of {pod}"):
                for line in _tail(cluster, pod, tail, follow):
                    lines.put((pod, line))
            lines.put(None)
        except ClusterError as error:
            lines.put(error)

    for pod in pods:
        threading.Thread(target=read, args=(pod,), daemon=True).start()
    n_open = len(pods)
    while n_open:
        match lines.get():
            case None:
                n_open -= 1
            case ClusterError() as error:
                raise error
            case (pod, line):
                yield pod, line


def _tail(cluster: Cluster, pod: str, tail: int, follow: bool) -> Iterator[str]:
    command = f"exec tail -q -n {tail} {'-F ' if follow else ''}{_FILES} 2>&1"
    # `stream` changes the client that it is given, for as long as the call takes: it gets one of its own.
    with client.ApiClient(cluster.api.configuration) as own:
        session = stream.stream(
            client.CoreV1Api(own).connect_get_namespaced_pod_exec,
            pod,
            cluster.namespace,
            container=_CONTAINER,
            command=["bash", "-c", command],
            stdout=True,
            _preload_content=False,
        )
        try:
            yield from _lines(session)
        finally:
            # Not session.close: where the other side said goodbye first, that leaves the socket open.
            session.sock.shutdown()


def _lines(session: Any) -> Iterator[str]:
    rest = ""
    while session.is_open():
        session.update(timeout=1)
        *whole, rest = (rest + session.read_stdout(timeout=0)).split("\n")
        yield from whole
    if rest:
        yield rest
