"""Server processes for tests and benches: started as a user would, stopped by pid."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai
import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
MODEL_FILE = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
START_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Process:
    """A server process and what it printed so far."""

    popen: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def follow(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as lines:
            for line in lines:
                self.lines.append(line.rstrip())

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def start(command: list[str], environment: dict[str, str], cwd: Path = ROOT) -> Process:
    popen = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    process = Process(popen)
    threading.Thread(target=process.follow, daemon=True).start()
    return process


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass
class Graph:
    """A running graph: where it is, what it is made of, what it wrote."""

    url: str
    process: Process
    database: Path
    started_in_s: float

    key: str = "unused"

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.popen.pid).children(recursive=True)

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of one deployment's replicas."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                title = " ".join(process.cmdline())
                if title.startswith("ray::ServeReplica") and deployment in title:
                    found.append(process)
        return found


def ray_environment() -> dict[str, str]:
    """Ports and files of its own, so that a server that already runs on this machine is not disturbed."""
    folder = Path("/tmp") / f"llmb-{os.getpid()}-{free_port()}"  # a Unix socket's path must be short
    folder.mkdir()
    return {
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }


def start_graph(folder: Path, models: dict[str, object], environment: dict[str, str]) -> Graph:
    """``llm-backend run`` with these models; ready on return."""
    models_file = folder / "models.yaml"
    models_file.write_text(yaml.safe_dump(models))
    port, database = free_port(), folder / "graph.db"
    environment = {"DATABASE_URL": f"sqlite:///{database}", **environment}
    environment.setdefault("LLM_BACKEND_DATA_DIR", str(folder))
    command = [sys.executable, "-m", "deployments.cli", "run", "--port", str(port), "--models-file", str(models_file)]
    began = time.monotonic()
    process = start(command, environment)
    graph = Graph(f"http://127.0.0.1:{port}", process, database, 0.0)
    try:
        wait_for(
            lambda: any("ready" in line for line in process.lines) or process.popen.poll() is not None,
            START_S,
            f"the ready line\n{process.text}",
        )
        assert process.popen.poll() is None, process.text
    except BaseException:
        stop_graph(graph)
        raise
    graph.started_in_s = time.monotonic() - began
    return graph


def stop_graph(graph: Graph) -> list[psutil.Process]:
    """Ctrl-C; returns the processes that were left behind, after ending them."""
    popen = graph.process.popen
    family = graph.processes() if popen.poll() is None else []
    if popen.poll() is None:
        os.killpg(popen.pid, signal.SIGINT)  # as a terminal does: to the whole group
    with contextlib.suppress(subprocess.TimeoutExpired):
        popen.wait(30)
    left = [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    for process in left:
        process.kill()
    if popen.poll() is None:
        popen.kill()
    return left
