"""The product as a user starts it: ``llm-backend run`` in a process of its own, with a cloud on loopback."""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import MODEL_FILE, Graph, answers, free_port, start, start_graph, stop_graph, wait_for
from tests.upstream_server import UpstreamServer

CLOUD_KEY = "sk-cloud-canary-5f1c0de5"
KEY = "sk-test-key-of-ours-0123456789"
FAR_KEY = "sk-far-canary-77aa11bb"


@pytest.fixture(scope="session")
def model_file() -> Path:
    if not MODEL_FILE.exists():
        pytest.skip("the default model is missing: make install")
    return MODEL_FILE


@pytest.fixture(scope="session")
def cloud(model_file: Path) -> Iterator[str]:
    """Another instance of this project, without Ray, as the cloud. Its base URL."""
    port = free_port()
    command = [sys.executable, "-m", "tests.plain_server", str(port), str(model_file), CLOUD_KEY]
    process = start(command, {"GOMP_SPINCOUNT": "300"})
    wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), 60, f"the cloud\n{process.text}")
    yield f"http://127.0.0.1:{port}/v1"
    process.popen.terminate()
    process.popen.wait(20)


@pytest.fixture(scope="session")
def far() -> Iterator[UpstreamServer]:
    """A scripted server as a second upstream, with a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = UpstreamServer()
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    yield server
    asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def two_models_and_a_cloud(model_file: Path) -> dict[str, object]:
    """Two local models that load, one that embeds, one that cannot load, aliases, and the cloud."""
    local = {"file": str(model_file), "threads": 1, "slots": 16, "context": 2048}
    return {
        "models": {
            "llama": local,
            "second/model": {**local, "slots": 4, "context": 512},
            "embedder": {**local, "kind": "embedding", "pooling": "last", "context": 256},
            "broken": {"file": str(model_file.with_name("no-such-file.gguf")), "threads": 1},
        },
        "aliases": {"gpt-4": {"model": "llama"}, "gpt-3.5-turbo": {"model": "llama", "only_without_upstream": True}},
        "upstreams": {"openai": {"api_key_env": "OPENAI_API_KEY"}},
    }


@pytest.fixture(scope="session")
def graph(
    tmp_path_factory: pytest.TempPathFactory, model_file: Path, cloud: str, far: UpstreamServer
) -> Iterator[Graph]:
    folder = tmp_path_factory.mktemp("graph")
    environment = {"OPENAI_API_KEY": CLOUD_KEY, "OPENAI_BASE_URL": cloud, "FAR_API_KEY": FAR_KEY}
    models = two_models_and_a_cloud(model_file)
    models["upstreams"] |= {"far": {"base_url": far.url, "api_key_env": "FAR_API_KEY", "models": ["far-model"]}}
    started = start_graph(folder, models, environment)
    yield started
    stop_graph(started)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Iterator[Graph]:
    """Two replicas of one model, behind a key, with no cloud."""
    model = {"file": str(model_file), "threads": 1, "slots": 16, "replicas": {"min": 2, "max": 2}}
    models = {"models": {"llama": model}, "aliases": {}, "upstreams": {}}
    graph = start_graph(tmp_path_factory.mktemp("pair"), models, {"LLM_BACKEND_API_KEY": KEY})
    graph.key = KEY
    yield graph
    assert stop_graph(graph) == []
