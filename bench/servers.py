"""The servers that are compared, each started with its best settings for this machine, on loopback."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from tests.running import ROOT, Graph, Process, answers, free_port, start, start_graph, stop_graph, wait_for

PEERS = ROOT / "bench" / ".peers"
CONTEXT = 4096


def peer_python() -> Path:
    """llama_cpp.server in an environment of its own, at our version of llama-cpp-python (pip's cache has the wheel)."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
        wanted = f"llama-cpp-python[server]=={version('llama-cpp-python')}"
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", wanted], check=True)
    return python


@contextlib.contextmanager
def llama_cpp_server(model: Path, threads: int, spins: str) -> Iterator[str]:
    """llama-cpp-python's own server. It answers one request at a time; without the flag a newcomer cuts it short."""
    port = free_port()
    command = [str(peer_python()), "-m", "llama_cpp.server", "--model", str(model), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--n_ctx", str(CONTEXT), "--n_threads", str(threads)]
    command += ["--n_threads_batch", str(threads), "--interrupt_requests", "False", "--verbose", "False"]
    with _running(start(command, {"GOMP_SPINCOUNT": spins}), f"http://127.0.0.1:{port}/v1/models"):
        yield f"http://127.0.0.1:{port}/v1"


@contextlib.contextmanager
def ours(folder: Path, model: Path, threads: int, upstream: str) -> Iterator[Graph]:
    """This project as `make run` starts it, with the bare upstream as its cloud."""
    llama = {"file": str(model.resolve()), "threads": threads, "slots": 16, "context": CONTEXT}
    models: dict[str, object] = {"models": {"llama": llama}, "upstreams": {"openai": {"api_key_env": "OPENAI_API_KEY"}}}
    graph = start_graph(folder, models, {"OPENAI_API_KEY": "sk-bench", "OPENAI_BASE_URL": upstream})
    try:
        yield graph
    finally:
        stop_graph(graph)


@contextlib.contextmanager
def bare_upstream() -> Iterator[str]:
    port = free_port()
    with _running(start([sys.executable, "-m", "bench.upstream", str(port)], {}), f"http://127.0.0.1:{port}/v1/models"):
        yield f"http://127.0.0.1:{port}/v1"


@contextlib.contextmanager
def _running(process: Process, url: str) -> Iterator[None]:
    try:
        wait_for(lambda: answers(url), 120, f"{url}\n{process.text}")
        yield
    finally:
        process.popen.terminate()
        process.popen.wait(30)
