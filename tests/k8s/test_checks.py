"""What would break once the pods run is found before: each test breaks one thing that fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deployments.kuberay.check import check
from deployments.kuberay.errors import ManifestError
from deployments.kuberay.fitness import quantity
from deployments.kuberay.manifests import Manifest, of_kind, parse, ray_service, render
from tests.k8s.rendering import rendered


def errors(change: Callable[[list[Manifest]], object], name: str = "prod") -> list[str]:
    manifests = rendered(name)
    change(manifests)
    return check(manifests).errors


def _cluster(manifests: list[Manifest]) -> dict[str, Any]:
    found: dict[str, Any] = ray_service(manifests)["spec"]["rayClusterConfig"]
    return found


def _worker(manifests: list[Manifest]) -> dict[str, Any]:
    found: dict[str, Any] = _cluster(manifests)["workerGroupSpecs"][0]
    return found


def _pod(manifests: list[Manifest]) -> dict[str, Any]:
    found: dict[str, Any] = _worker(manifests)["template"]["spec"]
    return found


def _without(kind: str, beginning: str) -> Callable[[list[Manifest]], None]:
    def change(manifests: list[Manifest]) -> None:
        named = [each for each in of_kind(manifests, kind) if each["metadata"]["name"].startswith(beginning)]
        assert named
        for each in named:
            manifests.remove(each)

    return change


def _models(text: str) -> Callable[[list[Manifest]], None]:
    def change(manifests: list[Manifest]) -> None:
        (found,) = (each for each in of_kind(manifests, "ConfigMap") if "models.yaml" in each["data"])
        found["data"]["models.yaml"] = text

    return change


def _model(**changes: Any) -> Callable[[list[Manifest]], None]:
    model = {"file": "/models/a.gguf", "threads": 2, "memory_bytes": 1 << 30, **changes}
    return _models(yaml.safe_dump({"models": {"llama": {k: v for k, v in model.items() if v is not None}}}))


def _serve(old: str, new: str) -> Callable[[list[Manifest]], None]:
    def change(manifests: list[Manifest]) -> None:
        spec = ray_service(manifests)["spec"]
        assert old in spec["serveConfigV2"]
        spec["serveConfigV2"] = spec["serveConfigV2"].replace(old, new)

    return change


CASES: dict[str, tuple[str, Callable[[list[Manifest]], Any]]] = {
    "an absent ConfigMap": ("ConfigMap llm-backend-env", _without("ConfigMap", "llm-backend-env")),
    "an absent volume claim": ("PersistentVolumeClaim", _without("PersistentVolumeClaim", "llm-backend-models")),
    "no volume for what users keep": ("PersistentVolumeClaim", _without("PersistentVolumeClaim", "llm-backend-data")),
    "an absent service": ("no service chatbot-ui", _without("Service", "chatbot-ui")),
    "a volume that is not mounted from": ("no volume models", lambda m: _pod(m)["volumes"].pop(1)),
    "a selector that matches nothing": (
        "PodDisruptionBudget llm-backend-workers",
        lambda m: _worker(m)["template"]["metadata"]["labels"].clear(),
    ),
    "another Ray": ("rayVersion is 2.59.0", lambda m: _cluster(m).update(rayVersion="2.59.0")),
    "another image for the workers": (
        "different versions",
        lambda m: _pod(m)["containers"][0].update(image="llm-backend:0.0.9"),
    ),
    "a grace shorter than the drain": (
        "terminationGracePeriodSeconds 60",
        lambda m: _pod(m).update(terminationGracePeriodSeconds=60),
    ),
    "a Serve configuration with an unknown field": ("serveConfigV2", _serve("route_prefix", "route_prefixes")),
    "a store that may land on the head": ("store_cpus", _serve("store_cpus: 0.2", "store_cpus: 0")),
    "a model with an unknown key": ("models.yaml", _model(contex=1)),
    "a model without threads": ("must name threads", _model(threads=None)),
    "a model larger than any worker": ("large enough", _model(memory_bytes=1 << 40)),
    "a GPU model where no worker has a GPU": ("large enough", _model(gpu_layers=-1, num_gpus=1)),
    "a model file that is on no volume": ("none of the volumes", _model(file="/data2/a.gguf")),
}


@pytest.mark.parametrize("what", CASES)
def test_what_does_not_fit_is_named(what: str) -> None:
    said, change = CASES[what]
    found = errors(change)
    assert any(said in line for line in found), found


def test_a_gpu_model_fits_the_gpu_group() -> None:
    assert errors(_model(gpu_layers=-1, num_gpus=1, threads=4, memory_bytes=8 << 30), "base+gpu") == []


def test_a_missing_secret_is_told_with_its_key() -> None:
    manifests = rendered("dev")
    (keys,) = (each for each in of_kind(manifests, "Secret") if each["metadata"]["name"] == "llm-backend-keys")
    del keys["data"]["CHATBOT_UI_API_KEY"]
    (missing,) = check(manifests).expected
    assert str(missing) == "Secret llm-backend-keys, key CHATBOT_UI_API_KEY (named by Deployment chatbot-ui)"


def test_an_unknown_field_of_a_core_object_is_found() -> None:
    (deployment,) = of_kind(rendered("dev"), "Deployment")
    deployment["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.34", strict=True)


@pytest.mark.parametrize(("text", "value"), [("500m", 0.5), ("4", 4), (2, 2), ("6Gi", 6 << 30), ("1.5G", 1.5e9)])
def test_quantities_are_read_as_kubernetes_means_them(text: object, value: float) -> None:
    assert quantity(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "5x", "Gi", "-1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        quantity(text)


def test_a_folder_without_an_overlay_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no kustomization\.yaml"):
        render(tmp_path)


def test_what_kustomize_refuses_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [nowhere.yaml]")
    with pytest.raises(ManifestError, match=r"nowhere\.yaml"):
        render(tmp_path)


@pytest.mark.parametrize("text", ["a: [", "- 1", "kind: Pod", "kind: Pod\nmetadata: {}"])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        parse(text)


def test_two_rayservices_are_one_too_many() -> None:
    manifests = rendered("base")
    with pytest.raises(ManifestError, match="there are 2"):
        ray_service([*manifests, *manifests])
