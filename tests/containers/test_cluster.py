"""The image, and the production overlay's RayService in containers that are started as KubeRay starts its pods."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import psycopg
import pytest
import yaml

from deployments.kuberay import manifests
from tests.containers import docker
from tests.containers.operator import Given, Operator, Pod, until_ready
from tests.crowd import Ending, crowd
from tests.postgres_server import running_server
from tests.running import MODEL_FILE, ROOT, wait_for

pytestmark = pytest.mark.timeout(2400)

BASE = "python:3.11-slim-bookworm"
KEY = "sk-test-key-of-ours-0123456789"
GROUP = "cpu"


def production() -> list[manifests.Manifest]:
    """The production overlay; its model twice, one thread each, so that two workers fit on a small machine."""
    rendered = manifests.parse(manifests.render(ROOT / "k8s" / "overlays" / "prod"))
    for config in manifests.of_kind(rendered, "ConfigMap"):
        if "models.yaml" in config["data"]:
            told = yaml.safe_load(config["data"]["models.yaml"])
            told["models"]["llama"] |= {"threads": 1, "replicas": {"min": 2, "max": 2}, "max_replicas_per_node": 1}
            config["data"]["models.yaml"] = yaml.safe_dump(told)
    return rendered


@dataclass
class Cluster:
    operator: Operator
    head: Pod
    workers: list[Pod]
    database: str

    def client(self, worker: Pod, retries: int = 0) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{worker.url(8000)}/v1", api_key=KEY, max_retries=retries)

    def async_client(self, worker: Pod) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{worker.url(8000)}/v1", api_key=KEY, max_retries=0)

    def count(self, table: str) -> int:
        with psycopg.connect(self.database) as database:
            row = database.execute(f"select count(*) from {table} where status = 'completed'").fetchone()
        return int(row[0]) if row else 0


@pytest.fixture(scope="session")
def image() -> str:
    """Built by `make image`, under the name that the manifests give it."""
    docker.need_docker()
    docker.need_base_image(BASE)
    service = manifests.ray_service(production())
    name = dict(manifests.groups(service))["head"]["template"]["spec"]["containers"][0]["image"]
    docker.build(name)
    return str(name)


@pytest.fixture(scope="session")
def cluster(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not MODEL_FILE.exists():
        pytest.skip("the default model is missing: make install")
    folder = tmp_path_factory.mktemp("containers")
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    shared = folder / "data"
    shared.mkdir()
    shared.chmod(0o777)
    with network() as (name, gateway), running_server(beyond=gateway) as postgres:
        database = postgres.create_database()
        given = Given(
            secrets={
                "llm-backend-database": {"DATABASE_URL": database.replace("127.0.0.1", "llm-backend-postgres")},
                "llm-backend-keys": {"LLM_BACKEND_API_KEY": KEY},
            },
            volumes={"llm-backend-models": MODEL_FILE.parent, "llm-backend-data": shared},
            hosts={"llm-backend-postgres": gateway},
        )
        operator = Operator(production(), name, folder, given)
        head = operator.start_head()
        workers = [operator.start_worker(GROUP) for _ in range(2)]
        operator.deploy(head)
        until_ready(workers)
        yield Cluster(operator, head, workers, database)


@contextlib.contextmanager
def network() -> Iterator[tuple[str, str]]:
    """A Docker network of its own and this machine's address on it; every container on it goes with it."""
    name = f"llmb-{os.getpid()}"
    docker.run("network", "create", name)
    try:
        (told,) = json.loads(docker.run("network", "inspect", name))
        yield name, told["IPAM"]["Config"][0]["Gateway"]
    finally:
        for container in docker.run("ps", "-aq", "--filter", f"network={name}").split():
            docker.run("rm", "-f", "-v", container)
        docker.run("network", "rm", name)


def ask(client: openai.OpenAI, **options: Any) -> openai.types.chat.ChatCompletion:
    messages: Any = [{"role": "user", "content": "Remember this."}]
    return client.chat.completions.create(model="llama", messages=messages, max_tokens=4, **options)


def test_the_image_runs_as_nobody_in_particular_and_holds_no_model_and_no_key(image: str) -> None:
    config = json.loads(docker.run("inspect", image))[0]["Config"]
    assert config["User"] == "1000:100"
    assert config["Labels"]["org.opencontainers.image.version"] == "0.1.0"
    assert not [each for each in config["Env"] if "KEY" in each.split("=")[0] and not each.startswith("GPG_KEY")]
    look = "find / -xdev \\( -name '*.gguf' -o -name '.env' -o -name '.git' \\) -not -path '/proc/*' 2>/dev/null; id -u"
    assert docker.run("run", "--rm", image, "bash", "-c", look).split() == ["1000"]
    tools = "for each in bash wget grep ray llm-backend; do command -v $each > /dev/null || echo $each; done"
    assert docker.run("run", "--rm", image, "bash", "-c", tools) == ""


def test_a_file_given_to_one_worker_is_read_through_another(cluster: Cluster) -> None:
    first, second = cluster.workers
    with cluster.client(first) as client:
        kept = client.files.create(file=("notes.txt", b"shared by all"), purpose="user_data")
    with cluster.client(second) as client:
        assert client.files.content(kept.id).read() == b"shared by all"


def test_chat_streams_and_turns_work_through_every_worker(cluster: Cluster) -> None:
    before = cluster.count("turns")
    for worker in cluster.workers:
        with cluster.client(worker) as client:
            kept = ask(client, store=True)
            assert client.chat.completions.retrieve(kept.id).choices[0].message == kept.choices[0].message
            chunks = list(ask(client, stream=True))
            assert chunks[-1].choices[0].finish_reason == "length"
    assert cluster.count("turns") == before + 2


def test_the_head_serves_nothing_and_every_worker_an_ingress_and_a_model(cluster: Cluster) -> None:
    replicas = "grep -o '^ray::ServeReplica:llm-backend:[A-Za-z]*'"
    look = f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | {replicas}; true"
    head, *workers = (pod.shell(look).split() for pod in (cluster.head, *cluster.workers))
    assert head == []
    for replicas in workers:
        assert {"ray::ServeReplica:llm-backend:Ingress", "ray::ServeReplica:llm-backend:LocalModel"} <= set(replicas)


class Load:
    """Requests one after another through one worker, for as long as the block lasts; how each ended."""

    def __init__(self, cluster: Cluster, worker: Pod) -> None:
        self.failures: list[str] = []
        self.n_answered = 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(cluster.client(worker),)) for _ in range(2)]

    def _run(self, client: openai.OpenAI) -> None:
        while not self._over.is_set():
            try:
                ask(client)
                self.n_answered += 1
            except openai.APIError as error:
                self.failures.append(repr(error))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_a_drained_worker_cuts_no_stream(cluster: Cluster) -> None:
    """What Kubernetes does to a pod that has to go: SIGTERM, and the grace period of the manifest."""
    staying, leaving = cluster.workers

    def drain() -> None:
        threading.Thread(target=docker.run, args=("kill", "--signal", "TERM", leaving.name)).start()

    async def streams() -> list[Ending]:
        """Through both workers' proxies."""
        through = [(staying, lambda: None), (leaving, drain)]
        crowds = (crowd(cluster.async_client(by), strike, streams=4, max_tokens=200) for by, strike in through)
        return [ending for endings in await asyncio.gather(*crowds) for ending in endings]

    endings = asyncio.run(streams())
    assert [(ending.finish, ending.error) for ending in endings] == [("length", None)] * 8
    with cluster.client(staying) as client:
        ask(client)
    drained = "grep -l 'Drain raylet RPC has received' /tmp/ray/session_latest/logs/raylet.*"
    assert leaving.shell(drained), "it was told to drain, and lives on for as long as it may take"
    leaving.kill()
    cluster.workers = [staying, cluster.operator.start_worker(GROUP)]
    until_ready(cluster.workers)


def test_a_killed_worker_under_load_loses_no_new_request(cluster: Cluster) -> None:
    staying, killed = cluster.workers
    stored = cluster.count("turns")
    with Load(cluster, staying) as load:
        wait_for(lambda: load.n_answered > 4, 120, "the load runs")
        n_before = load.n_answered
        killed.kill()
        replacement = cluster.operator.start_worker(GROUP)
        until_ready([replacement])
        wait_for(lambda: load.n_answered > n_before + 10, 120, "the load goes on")
    cluster.workers = [staying, replacement]
    assert load.failures == []
    assert cluster.count("turns") >= stored, "what was acknowledged is kept"
    with contextlib.closing(cluster.client(replacement)) as client:
        assert ask(client).choices
