"""Where Ray is told to put replicas: nodes with the right group, label or GPU, and never more than allowed on one."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from config.settings import ModelSettings, load
from tests.deployments.test_graph_build import deployments, settings


def test_a_model_goes_only_where_its_resources_and_labels_are() -> None:
    model = {"file": "a.gguf", "resources": {"fast-disk": 0.5}, "labels": {"group": "gpu"}, "max_replicas_per_node": 2}
    node = deployments(settings({"big": model}))["LocalModel-big"]
    assert node.ray_actor_options["resources"] == {"fast-disk": 0.5}
    assert node.ray_actor_options["label_selector"] == {"group": "gpu"}
    assert node._replica_config.max_replicas_per_node == 2


def test_a_model_that_names_no_place_goes_anywhere() -> None:
    node = deployments(settings({"llama": {"file": "a.gguf"}}))["LocalModel-llama"]
    assert not {"resources", "label_selector"} & set(node.ray_actor_options)
    assert node._replica_config.max_replicas_per_node is None


def test_nothing_fits_on_a_head_without_cpus_once_every_deployment_asks_for_some() -> None:
    cluster = {"ingress_cpus": 0.5, "upstream_cpus": 0.25, "store_cpus": 0.25}
    for node in deployments(settings({"llama": {"file": "a.gguf"}}, openai=True), **cluster).values():
        assert node.ray_actor_options["num_cpus"] > 0


def test_ingress_replicas_can_be_kept_on_different_nodes() -> None:
    node = deployments(settings({}), ingress_replicas=2, ingress_max_replicas_per_node=1)["Ingress"]
    assert node._replica_config.max_replicas_per_node == 1


@pytest.mark.parametrize("wrong", [{"resources": {"disk": 0}}, {"labels": {"group": 3}}, {"max_replicas_per_node": 0}])
def test_a_place_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelSettings(file=Path("a.gguf"), **wrong)  # type: ignore[arg-type]


def test_a_replica_is_told_every_path_its_node_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "models.yaml"
    models.write_text("models: {llama: {file: /models/a.gguf, copies: [/mnt/nvme/a.gguf]}}")
    told = deployments(load(models))["LocalModel-llama"].init_args[0]
    assert (told.path, told.copies) == ("/models/a.gguf", ("/mnt/nvme/a.gguf",))
    monkeypatch.setenv("LLAMA_MODEL_FILE", "/models/b.gguf")
    other = deployments(load(models))["LocalModel-llama"].init_args[0]
    assert (other.path, other.copies) == ("/models/b.gguf", ()), "copies are of the file they stand beside"
