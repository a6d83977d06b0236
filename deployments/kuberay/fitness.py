"""Whether a rendered RayService can carry this version's graph: Ray's version, images, settings, sizes, deadlines. Pure
but for the import of Serve's schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import yaml
from pydantic import ValidationError

from config.settings import Catalogue
from deployments.kuberay.manifests import Manifest, groups, of_kind

_DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
_DRAIN_MARGIN_S = 15
_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text: object) -> float:
    """A Kubernetes quantity as a number: ``500m``, ``6Gi``, ``4``."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if not found or found[2] not in _UNITS:
        raise ValueError(f"{text!r} is no quantity")
    return float(found[1]) * _UNITS[found[2]]


def misfits(service: Manifest, manifests: list[Manifest]) -> list[str]:
    """One line for each thing that would not work once the pods run."""
    return [
        *_versions(service),
        *_serve_config(service),
        *_models(service, manifests),
        *_idle_head(service),
        *_grace(service, manifests),
    ]


def _versions(service: Manifest) -> Iterator[str]:
    said, installed = service["spec"]["rayClusterConfig"].get("rayVersion"), version("ray")
    if said != installed:
        yield f"rayVersion is {said}, the graph is built with Ray {installed}"
    tags = {_ray_container(group)["image"].rpartition(":")[2] for _, group in groups(service)}
    if len(tags) > 1:
        yield f"head and workers have different versions of the image: {', '.join(sorted(tags))}"


def _serve_config(service: Manifest) -> Iterator[str]:
    from ray.serve.schema import ServeDeploySchema  # a second of imports, for this alone

    try:
        said = serve_config(service)
        read = ServeDeploySchema.model_validate(said).model_dump(exclude_unset=True)
    except (ValidationError, ValueError, yaml.YAMLError) as error:
        yield f"serveConfigV2: {' '.join(str(error).split())}"
        return
    for field in _lost(said, read):
        yield f"serveConfigV2: Serve knows no field {field}, and would ignore it"


def _lost(said: Any, read: Any, path: str = "") -> Iterator[str]:
    """Fields that Serve's schema did not keep."""
    if isinstance(said, dict) and isinstance(read, dict):
        for name, value in said.items():
            if name in read:
                yield from _lost(value, read[name], f"{path}{name}.")
            else:
                yield f"{path}{name}"
    elif isinstance(said, list) and isinstance(read, list):
        for one, other in zip(said, read, strict=False):
            yield from _lost(one, other, path)


def serve_config(service: Manifest) -> dict[str, Any]:
    return dict(yaml.safe_load(service["spec"].get("serveConfigV2") or "") or {})


def graph_args(service: Manifest) -> dict[str, Any]:
    return dict(serve_config(service)["applications"][0].get("args") or {})


def _idle_head(service: Manifest) -> Iterator[str]:
    """An actor that takes no CPU may be put anywhere, also on a head that offers none."""
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        return
    for name in ("ingress_cpus", "upstream_cpus", "store_cpus"):
        if not graph_args(service).get(name):
            yield f"the head offers no CPUs, so serveConfigV2 must set {name} above 0: else Ray may use the head"


def _grace(service: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    for name, group in groups(service):
        drain = float(environment(group, manifests).get(_DRAIN, 30))
        grace = group["template"]["spec"].get("terminationGracePeriodSeconds", 30)
        if grace < drain + _DRAIN_MARGIN_S:
            yield f"group {name}: terminationGracePeriodSeconds {grace} must be {_DRAIN} ({drain:g}) + 15 or more"


def environment(group: Manifest, manifests: list[Manifest]) -> dict[str, str]:
    """The plain variables of a group's Ray container, as its pods will see them."""
    container = _ray_container(group)
    maps = {each["metadata"]["name"]: each.get("data", {}) for each in of_kind(manifests, "ConfigMap")}
    found: dict[str, str] = {}
    for origin in container.get("envFrom", []):
        found |= maps.get(origin.get("configMapRef", {}).get("name"), {})
    return found | {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def _models(service: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    workers = [(name, group) for name, group in groups(service) if name != "head"]
    for source in _model_files(service, manifests):
        try:
            catalogue = Catalogue.model_validate(yaml.safe_load(source) or {})
        except (ValidationError, yaml.YAMLError) as error:
            yield f"models.yaml: {' '.join(str(error).split())}"
            continue
        for name, model in catalogue.models.items():
            if model.threads is None or model.memory_bytes is None:
                yield f"models.yaml: {name} must name threads and memory_bytes: the graph is built elsewhere"
            elif not any(_carries(group, model.threads, model.memory_bytes, model.num_gpus) for _, group in workers):
                yield f"models.yaml: no worker group is large enough for one replica of {name}"
            mounted = [mount for _, group in workers for mount in _mounts(group)]
            if not any(model.file.is_relative_to(path) for path in mounted):
                yield f"models.yaml: {model.file} is on none of the volumes of the workers"


def _model_files(service: Manifest, manifests: list[Manifest]) -> set[str]:
    """The models.yaml that the groups mount."""
    names = {
        volume["configMap"]["name"]
        for _, group in groups(service)
        for volume in group["template"]["spec"].get("volumes", [])
        if "configMap" in volume
    }
    maps = [each for each in of_kind(manifests, "ConfigMap") if each["metadata"]["name"] in names]
    return {each["data"]["models.yaml"] for each in maps if "models.yaml" in each.get("data", {})}


def _carries(group: Manifest, cpus: float, memory_bytes: float, gpus: float) -> bool:
    limits = _ray_container(group)["resources"]["limits"]
    return (
        quantity(limits["cpu"]) >= cpus
        and quantity(limits["memory"]) > memory_bytes
        and quantity(limits.get("nvidia.com/gpu", 0)) >= gpus
    )


def _mounts(group: Manifest) -> list[str]:
    return [mount["mountPath"] for mount in _ray_container(group).get("volumeMounts", [])]


def _ray_container(group: Manifest) -> Manifest:
    """KubeRay takes the first."""
    container: Manifest = group["template"]["spec"]["containers"][0]
    return container
