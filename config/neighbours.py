"""Several servers on one machine: what Ray's HAProxy has once for all of them, given to each for itself."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_KNOWN_PORTS = {"RAY_SERVE_HAPROXY_METRICS_PORT": 9101, "RAY_SERVE_HAPROXY_STATS_PORT": 8404}
"""Kept where they are free: somebody may look there."""

_INNER_PORTS = ("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT")
"""Who answers while no ingress can. Ray opens them with SO_REUSEPORT: of two servers with the same ones each would
answer some of the other's requests."""

_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}


@contextmanager
def kept_apart() -> Iterator[None]:
    """For what this process starts meanwhile, and before Ray is imported. What the operator set already stays."""
    # A Unix socket's path must be short, so not where TMPDIR says.
    with tempfile.TemporaryDirectory(prefix="llmb-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        for name, port in _KNOWN_PORTS.items():
            os.environ.setdefault(name, str(free_port(port) or free_port(0)))
        for name in _INNER_PORTS:
            os.environ.setdefault(name, str(free_port(0)))
        for name, file in _FILES.items():
            os.environ.setdefault(name, str(Path(folder) / file))
        yield


def free_port(wanted: int) -> int | None:
    """The port if nobody listens on it, on any interface, as HAProxy will; for 0 any such; else None."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what only lingers is free
        try:
            probe.bind(("0.0.0.0", wanted))  # noqa: S104
        except OSError:
            return None
        return int(probe.getsockname()[1])
