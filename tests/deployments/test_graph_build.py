"""The picture that Ray is given: names, annotations, bounds. Nothing is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from config.settings import Catalogue, ModelSettings, Settings, UpstreamSettings, secret_names
from deployments.graph import GraphArgs, compose
from deployments.resources import plan, total_cpus
from serve_app.engine.loading import EmbeddingModelOptions


def settings(models: dict[str, object], **upstreams: object) -> Settings:
    catalogue = Catalogue.model_validate({"models": models})
    keyed = {name: UpstreamSettings(api_key_env="K", api_key=SecretStr("sk-cloud")) for name in upstreams}
    return Settings(
        catalogue=catalogue.model_copy(update={"upstreams": keyed}),
        data_dir=Path("/tmp/x"),
        database_url=SecretStr("sqlite:////tmp/x.db"),
        api_keys=(),
        log_level="INFO",
        behind_haproxy=True,
    )


def deployments(told: Settings, **args: object) -> dict[str, object]:
    """Every deployment of the graph by name."""
    found = {}
    nodes = [compose(GraphArgs(**args), told, hidden=secret_names(told))._bound_deployment]
    while nodes:
        node = nodes.pop()
        found[node.name] = node
        for argument in node.init_args:
            values = argument.values() if isinstance(argument, dict) else [argument]
            nodes += [each._bound_deployment for each in values if hasattr(each, "_bound_deployment")]
    return found


def test_there_is_one_deployment_for_each_model_and_upstream_one_ingress_and_one_store() -> None:
    graph = deployments(settings({"llama": {"file": "a.gguf"}, "org/second": {"file": "b.gguf"}}, openai=True))
    assert set(graph) == {
        "Ingress",
        "LocalModel-llama",
        "LocalModel-org_second",
        "UpstreamModel-openai",
        "ConversationStore",
    }


def test_an_embedding_model_is_told_what_only_it_needs() -> None:
    model = {"file": "a.gguf", "kind": "embedding", "pooling": "mean", "dimensions": [64, 128], "context": 512}
    told = deployments(settings({"mini": {**model, "threads": 2}}))["LocalModel-mini"].init_args[0]
    assert told == EmbeddingModelOptions("mini", "a.gguf", 512, 2, pooling="mean", dimensions=(64, 128))


def test_adapters_and_cache_types_reach_the_replica_and_its_memory() -> None:
    model = {"file": __file__, "context": 2**20, "threads": 1}
    tuned = {**model, "cache_type_k": "q8_0", "cache_type_v": "q8_0", "lora": [{"file": "t.gguf", "scale": 0.5}]}
    graph = deployments(settings({"plain": model, "tuned": tuned}))
    told = graph["LocalModel-tuned"].init_args[0]
    assert (told.type_k, told.type_v, told.lora) == ("q8_0", "q8_0", (("t.gguf", 0.5),))
    plain_memory, tuned_memory = (
        graph[f"LocalModel-{name}"].ray_actor_options["memory"] for name in ("plain", "tuned")
    )
    assert tuned_memory < plain_memory


def test_a_gpu_model_is_annotated_with_what_it_uses() -> None:
    model = {"file": "a.gguf", "gpu_layers": -1, "num_gpus": 0.5, "accelerator_type": "L4", "threads": 3}
    node = deployments(settings({"big": model}))["LocalModel-big"]
    options = node.ray_actor_options
    assert (options["num_cpus"], options["num_gpus"], options["accelerator_type"]) == (3, 0.5, "L4")
    told = node.init_args[0]
    assert (told.n_threads, told.n_gpu_layers) == (3, -1)


def test_threads_openmp_and_num_cpus_agree_and_openmp_spins_only_for_a_moment() -> None:
    node = deployments(settings({"llama": {"file": "a.gguf"}}), cpus=4)["LocalModel-llama"]
    environment = node.ray_actor_options["runtime_env"]["env_vars"]
    assert node.ray_actor_options["num_cpus"] == node.init_args[0].n_threads == 4
    assert (environment["OMP_NUM_THREADS"], environment["GOMP_SPINCOUNT"]) == ("4", "300")


def test_no_deployment_inherits_a_secret_and_only_the_upstream_is_given_its_key() -> None:
    for name, node in deployments(settings({"llama": {"file": "a.gguf"}}, openai=True)).items():
        environment = node.ray_actor_options["runtime_env"]["env_vars"]
        assert [environment[secret] for secret in ("K", "DATABASE_URL", "LLM_BACKEND_API_KEY")] == ["", "", ""]
        assert ("sk-cloud" in str(node.init_args)) == name.startswith("UpstreamModel")


def test_ingress_and_models_are_autoscaled_and_the_store_never_is() -> None:
    model = {"file": "a.gguf", "replicas": {"min": 1, "max": 3}, "slots": 8}
    graph = deployments(settings({"llama": model}), ingress_replicas=2)
    scaling = graph["LocalModel-llama"]._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 3, 8)
    ingress = graph["Ingress"]._deployment_config.autoscaling_config
    assert (ingress.min_replicas, ingress.max_replicas) == (2, 4)
    assert graph["ConversationStore"]._deployment_config.autoscaling_config is None
    assert graph["ConversationStore"].num_replicas == 1


def test_queues_are_bounded_and_refuse_with_429() -> None:
    node = deployments(settings({"llama": {"file": "a.gguf", "slots": 4, "queue": 10}}))["LocalModel-llama"]
    assert node.max_ongoing_requests == 18
    assert node._deployment_config.max_queued_requests == 28
    assert node._deployment_config.backpressure_config.status_code == 429


def test_wrong_arguments_are_refused() -> None:
    for wrong in ({"ingress_replicas": 0}, {"cpus": 0}, {"unknown": 1}):
        with pytest.raises(ValidationError):
            GraphArgs(**wrong)


@pytest.mark.parametrize(
    ("threads", "n_cpus", "expected"),
    [
        ([None], 2, [(2, 2)]),
        ([None, None], 4, [(2, 2), (2, 2)]),
        ([None, None], 2, [(1, 1), (1, 1)]),
        ([None, None, None], 2, [(1, 0.67), (1, 0.67), (1, 0.67)]),
        ([3, None], 4, [(3, 3), (1, 1)]),
        ([4, None], 4, [(4, 4), (1, 0.1)]),
    ],
)
def test_cpus_are_shared_among_models_that_name_no_threads(
    threads: list[int | None], n_cpus: int, expected: list[tuple[int, float]]
) -> None:
    models = {str(at): ModelSettings(file=Path("a.gguf"), threads=each) for at, each in enumerate(threads)}
    resources = plan(models, n_cpus)
    assert [(each.n_threads, each.num_cpus) for each in resources.values()] == expected
    assert total_cpus(models, n_cpus) == pytest.approx(sum(cpus for _, cpus in expected))


def test_memory_covers_the_file_and_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"x" * 4096_000)
    small, large = (plan({"a": ModelSettings(file=path, cache_tokens=n)}, 1)["a"].memory_bytes for n in (4096, 8192))
    assert small > 4096_000
    assert large - small == 4096 * 1000


def test_every_replica_can_be_kept_off_a_head_that_offers_no_cpus() -> None:
    """Ray puts what takes none anywhere."""
    args = {"ingress_cpus": 0.5, "upstream_cpus": 0.2, "store_cpus": 0.2}
    graph = deployments(settings({"llama": {"file": "a.gguf"}}, openai=True), **args)
    assert all(node.ray_actor_options["num_cpus"] > 0 for node in graph.values())
