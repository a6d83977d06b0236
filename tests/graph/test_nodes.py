"""The graph on several nodes: where its replicas are, what a lost node costs, and that an update cuts no stream."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import openai
import psutil
import pytest
import yaml
from dotenv import dotenv_values

from tests.crowd import crowd
from tests.running import ROOT, Process, free_port, ray_environment, wait_for

pytestmark = [pytest.mark.graph, pytest.mark.slow, pytest.mark.timeout(400)]

KEY = "sk-test-key-of-ours-0123456789"
CPU_NODE = {"num_cpus": 4, "labels": {"group": "cpu"}}
GPU_NODE = {**CPU_NODE, "num_gpus": 1}
LOADED = ["Ingress", "LocalModel-llama"]


class Nodes:
    """A cluster whose head offers no CPUs, and its nodes by name."""

    def __init__(self, folder: Path, model_file: Path) -> None:
        self.port = free_port()
        self.models_file = folder / "models.yaml"
        self._model_file = model_file
        self._raylets: dict[str, psutil.Process] = {}
        environment = {name: value or "" for name, value in dotenv_values(ROOT / "config" / "ray.env").items()}
        environment |= {"DATABASE_URL": f"sqlite:///{folder}/nodes.db", "LLM_BACKEND_DATA_DIR": str(folder)}
        popen = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment, **ray_environment(), "LLM_BACKEND_API_KEY": KEY},
        )
        self.process = Process(popen)
        threading.Thread(target=self.process.follow, daemon=True).start()

    def _say(self, line: str, answer: str, timeout_s: float) -> str:
        """Tell the cluster; returns the new line that begins with the answer."""
        assert self.process.popen.stdin is not None
        n_before = len(self.process.lines)
        self.process.popen.stdin.write(f"{line}\n")
        self.process.popen.stdin.flush()
        wait_for(lambda: bool(self._answers(answer, n_before)) or not self._lives(), timeout_s, answer)
        assert self._lives(), self.process.text
        return self._answers(answer, n_before)[0]

    def _answers(self, answer: str, since: int) -> list[str]:
        return [line for line in self.process.lines[since:] if line.startswith(answer)]

    def _lives(self) -> bool:
        return self.process.popen.poll() is None

    def add(self, name: str, told: dict[str, object]) -> None:
        answer = self._say(f"node {json.dumps({'name': name, **told})}", f"node {name} ", 90)
        self._raylets[name] = psutil.Process(int(answer.split()[-1]))

    def serve(self, context: int) -> None:
        """Serve, or change what is served."""
        common = {"file": str(self._model_file), "threads": 1, "context": context}
        llama = {**common, "labels": {"group": "cpu"}, "replicas": {"min": 2, "max": 2}, "max_replicas_per_node": 1}
        big = {**common, "num_gpus": 1, "gpu_layers": -1}
        self.models_file.write_text(yaml.safe_dump({"models": {"llama": llama, "big": big}}))
        self._say(f"serve {self.port} {self.models_file}", "ready", 200)

    def replicas(self, name: str) -> list[str]:
        """The deployments of a node's replicas that have started, sorted."""
        titles = [process.cmdline()[0].strip() for process in self._raylets[name].children() if process.cmdline()]
        return sorted(title.rsplit(":", 1)[1] for title in titles if title.startswith("ray::ServeReplica:llm-backend:"))

    def kill(self, name: str) -> None:
        """The whole node at once, the raylet first."""
        raylet = self._raylets.pop(name)
        for process in (raylet, *raylet.children(recursive=True)):
            process.send_signal(signal.SIGKILL)

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=KEY, max_retries=0)

    def stop(self) -> None:
        assert self.process.popen.stdin is not None
        family = psutil.Process(self.process.popen.pid).children(recursive=True)
        self.process.popen.stdin.close()
        try:
            self.process.popen.wait(60)
        finally:
            for process in psutil.wait_procs(family, timeout=3)[1]:
                process.kill()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Iterator[Nodes]:
    cluster = Nodes(tmp_path_factory.mktemp("nodes"), model_file)
    try:
        cluster.add("a", CPU_NODE)
        cluster.add("b", GPU_NODE)
        cluster.serve(context=1024)
        yield cluster
    finally:
        cluster.stop()


def test_replicas_are_where_they_were_told_to_be_and_none_is_on_the_head(nodes: Nodes) -> None:
    expected = {"Ingress": 2, "LocalModel-llama": 2, "LocalModel-big": 1, "ConversationStore": 1}
    assert Counter(nodes.replicas("a") + nodes.replicas("b")) == expected
    for name in ("a", "b"):
        assert [each for each in nodes.replicas(name) if each in LOADED] == LOADED, "one of each on each node"
    assert "LocalModel-big" in nodes.replicas("b"), "the model that wants a GPU is on the node that has one"


def test_an_update_of_every_replica_cuts_no_stream(nodes: Nodes) -> None:
    endings = asyncio.run(crowd(nodes.client(), lambda: nodes.serve(context=1536), streams=8))
    assert [(ending.finish, ending.error) for ending in endings] == [("length", None)] * 8


async def ask(nodes: Nodes) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    async with nodes.client() as client:
        await client.chat.completions.create(model="llama", messages=messages, max_tokens=4)  # type: ignore[arg-type]


def test_a_lost_nodes_streams_end_with_an_error_and_its_capacity_is_back_within_30_s(nodes: Nodes) -> None:
    killed_at = 0.0

    def lose_a_node() -> None:
        nonlocal killed_at
        nodes.kill("a")
        killed_at = time.monotonic()
        for _ in range(3):
            asyncio.run(ask(nodes))
        # As KubeRay does: a new node in its place.
        nodes.add("c", CPU_NODE)

    endings = asyncio.run(crowd(nodes.client(), lose_a_node, streams=16))
    assert {ending.error for ending in endings} == {None, "engine_lost", "connection"}, "the ingress was lost, or not"
    assert all(ending.finish == (None if ending.error else "length") for ending in endings)
    wait_for(
        lambda: [each for each in nodes.replicas("c") if each in LOADED] == LOADED,
        30 - (time.monotonic() - killed_at),
        "the replicas of the lost node are on the new one",
    )
    asyncio.run(ask(nodes))
