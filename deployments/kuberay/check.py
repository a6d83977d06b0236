"""Everything that can be said about rendered manifests without a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.kuberay import fitness, references, rules
from deployments.kuberay.manifests import Manifest, of_kind, ray_service
from deployments.kuberay.references import Reference


@dataclass(frozen=True, slots=True)
class Findings:
    """``errors`` are wrong wherever they are applied; ``expected`` are Secrets that must be in the cluster already."""

    errors: list[str]
    expected: list[Reference]


def check(manifests: list[Manifest]) -> Findings:
    service = ray_service(manifests)
    missing = references.dangling(manifests)
    made = {each["spec"]["target"]["name"] for each in of_kind(manifests, "ExternalSecret")}
    absent = [each for each in missing if each.kind == "Secret" and each.name not in made]
    errors = [
        *rules.violations(service),
        *fitness.misfits(service, manifests),
        *(f"{each} is not in these manifests" for each in missing if each.kind != "Secret"),
        *references.broken_mounts(manifests),
        *references.broken_routes(manifests),
        *references.blind_selectors(manifests),
    ]
    return Findings(errors, absent)
