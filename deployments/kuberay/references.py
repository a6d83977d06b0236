"""Whether what manifests name is there: objects, keys, ports, pods behind a selector. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from deployments.kuberay.manifests import Manifest, containers, of_kind, pod_templates, title

_MADE_BY_KUBERAY = {"-serve-svc": (8000,), "-head-svc": (6379, 8265, 10001, 8000, 8080)}
"""Services of a RayService: the ends of their names, and their ports."""


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """One object that another names. ``key`` is one of its keys, empty when the whole is meant."""

    source: str
    kind: str
    name: str
    key: str = ""

    def __str__(self) -> str:
        key = f", key {self.key}" if self.key else ""
        return f"{self.kind} {self.name}{key} (named by {self.source})"


def dangling(manifests: list[Manifest]) -> list[Reference]:
    """References to what is not in the manifests."""
    missing = []
    for reference in sorted(set(references(manifests))):
        found = [each for each in of_kind(manifests, reference.kind) if each["metadata"]["name"] == reference.name]
        if not found or (reference.key and reference.key not in _keys(found[0])):
            missing.append(reference)
    return missing


def references(manifests: Iterable[Manifest]) -> Iterator[Reference]:
    """Every ConfigMap, Secret and volume claim that a pod cannot start without."""
    for source, template in pod_templates(manifests):
        for container in containers(template):
            yield from _of_container(source, container)
        for volume in template["spec"].get("volumes", []):
            yield from _of_volume(source, volume)


def _of_container(source: str, container: Manifest) -> Iterator[Reference]:
    for variable in container.get("env", []):
        origin = variable.get("valueFrom", {})
        for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            if field in origin and not origin[field].get("optional"):
                yield Reference(source, kind, origin[field]["name"], origin[field]["key"])
    for origin in container.get("envFrom", []):
        for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if field in origin and not origin[field].get("optional"):
                yield Reference(source, kind, origin[field]["name"])


def _of_volume(source: str, volume: Manifest) -> Iterator[Reference]:
    if "configMap" in volume:
        yield Reference(source, "ConfigMap", volume["configMap"]["name"])
    if "secret" in volume:
        yield Reference(source, "Secret", volume["secret"]["secretName"])
    if "persistentVolumeClaim" in volume:
        yield Reference(source, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])


def _keys(manifest: Manifest) -> set[str]:
    return {*manifest.get("data", {}), *manifest.get("stringData", {})}


def broken_mounts(manifests: Iterable[Manifest]) -> list[str]:
    """Mounts of volumes that their pod does not have."""
    lines = []
    for source, template in pod_templates(manifests):
        volumes = {volume["name"] for volume in template["spec"].get("volumes", [])}
        mounted = {mount["name"] for each in containers(template) for mount in each.get("volumeMounts", [])}
        lines += [f"{source}: no volume {name}" for name in sorted(mounted - volumes - _claimed(manifests, source))]
    return lines


def _claimed(manifests: Iterable[Manifest], source: str) -> set[str]:
    """Names of the volumes that a StatefulSet makes itself."""
    sets = (each for each in manifests if title(each) == source)
    return {claim["metadata"]["name"] for each in sets for claim in each["spec"].get("volumeClaimTemplates", [])}


def broken_routes(manifests: list[Manifest]) -> list[str]:
    """Backends of an Ingress or HTTPRoute that are no service, or have no such port."""
    known = _service_ports(manifests)
    lines = []
    for manifest in of_kind(manifests, "Ingress", "HTTPRoute"):
        for name, port in _backends(manifest):
            if port not in known.get(name, ()):
                lines.append(f"{title(manifest)}: there is no service {name} with port {port}")
    return lines


def _service_ports(manifests: list[Manifest]) -> dict[str, tuple[Any, ...]]:
    known = {
        each["metadata"]["name"]: tuple(port["port"] for port in each["spec"]["ports"])
        for each in of_kind(manifests, "Service")
    }
    for service in of_kind(manifests, "RayService"):
        known |= {service["metadata"]["name"] + end: ports for end, ports in _MADE_BY_KUBERAY.items()}
    return known


def _backends(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    for rule in manifest["spec"].get("rules", []):
        for path in rule.get("http", {}).get("paths", []):
            yield path["backend"]["service"]["name"], path["backend"]["service"]["port"]["number"]
        for backend in rule.get("backendRefs", []):
            yield backend["name"], backend["port"]


def blind_selectors(manifests: list[Manifest]) -> list[str]:
    """Services, disruption budgets and network policies that select no pod of these manifests."""
    labels = [template.get("metadata", {}).get("labels", {}) for _, template in pod_templates(manifests)]
    return [
        f"{title(manifest)}: its selector matches no pod"
        for manifest in manifests
        for selector in [_selector(manifest)]
        if selector and not any(selector.items() <= each.items() for each in labels)
    ]


def _selector(manifest: Manifest) -> dict[str, str]:
    spec = manifest.get("spec", {})
    match manifest["kind"]:
        case "Service":
            found = spec.get("selector", {})
        case "PodDisruptionBudget":
            found = spec["selector"].get("matchLabels", {})
        case "NetworkPolicy":
            found = spec["podSelector"].get("matchLabels", {})
        case _:
            found = {}
    return dict(found)
