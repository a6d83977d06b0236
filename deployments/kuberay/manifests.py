"""Manifests: rendered by Kustomize, and what can be asked of them. Nothing here talks to a cluster."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from deployments.kuberay.errors import ManifestError

Manifest = dict[str, Any]

RAY_LABELS: Mapping[str, str] = {"ray.io/is-ray-node": "yes"}
"""Of those that KubeRay puts on every pod of a cluster, the one our selectors use."""


def render(folder: Path) -> str:
    """The manifests of an overlay, as YAML."""
    if not (folder / "kustomization.yaml").is_file():
        raise ManifestError(f"{folder} has no kustomization.yaml; the overlays are under k8s/overlays")
    done = subprocess.run([*_kustomize(), str(folder)], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise ManifestError(f"Kustomize refused {folder}: {' '.join(done.stderr.split())}")
    return done.stdout


def _kustomize() -> list[str]:
    """Kustomize is part of kubectl, and kubectl comes with the extra `k8s`: neither has to be installed by hand."""
    beside = Path(sys.executable).parent
    for name, arguments in (("kubectl", ["kustomize"]), ("kustomize", ["build"])):
        found = shutil.which(name, path=str(beside)) or shutil.which(name)
        if found:
            return [found, *arguments]
    raise ManifestError("Kustomize is missing: `make tools` brings it, and so does pip install '.[k8s]'")


def parse(text: str) -> list[Manifest]:
    try:
        documents = [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]
    except yaml.YAMLError as error:
        raise ManifestError(f"These manifests are not YAML: {' '.join(str(error).split())}") from None
    for document in documents:
        if not isinstance(document, dict) or not document.get("kind") or not document.get("metadata", {}).get("name"):
            raise ManifestError(
                "These manifests hold something that is no Kubernetes object: kind and name are missing"
            )
    return documents


def of_kind(manifests: Iterable[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def ray_service(manifests: Iterable[Manifest]) -> Manifest:
    services = of_kind(manifests, "RayService")
    if len(services) != 1:
        raise ManifestError(f"One RayService is expected in these manifests, there are {len(services)}")
    return services[0]


def title(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def groups(service: Manifest) -> Iterator[tuple[str, Manifest]]:
    """The head and every worker group of a RayService, with their names."""
    cluster = service["spec"]["rayClusterConfig"]
    yield "head", cluster["headGroupSpec"]
    for group in cluster.get("workerGroupSpecs", []):
        yield group["groupName"], group


def pod_templates(manifests: Iterable[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod template, with the name of what it is in. Ray's carry the labels that KubeRay adds."""
    for manifest in manifests:
        if manifest["kind"] == "RayService":
            for name, group in groups(manifest):
                labels = {**group["template"].get("metadata", {}).get("labels", {}), **RAY_LABELS}
                yield f"{title(manifest)}, group {name}", {**group["template"], "metadata": {"labels": labels}}
        elif "template" in manifest.get("spec", {}) and "spec" in manifest["spec"]["template"]:
            yield title(manifest), manifest["spec"]["template"]


def containers(template: Manifest) -> list[Manifest]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]
