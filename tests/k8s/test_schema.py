"""Every manifest is what the API server takes: no unknown field, no wrong type, nothing missing."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest

from deployments.kuberay.manifests import of_kind
from tests.k8s.crd_schema import complaints
from tests.k8s.rendering import EVERYTHING, K8S, rendered

KUBERNETES = "1.34"
"""The oldest version that is supported."""

WITHOUT_SCHEMA = {"RayService", "HTTPRoute", "PodMonitor", "PrometheusRule", "ExternalSecret"}
"""Kinds of operators, not of Kubernetes."""


@pytest.mark.parametrize("name", EVERYTHING)
def test_core_objects_pass_the_strict_schema_of_kubernetes(name: str) -> None:
    for manifest in rendered(name):
        if manifest["kind"] not in WITHOUT_SCHEMA:
            _validate(json.dumps(manifest, sort_keys=True))


@cache
def _validate(manifest: str) -> None:
    """Most are the same in every render, and the library reads its schemas anew each time."""
    kubernetes_validate.validate(json.loads(manifest), KUBERNETES, strict=True)


@pytest.mark.parametrize("name", EVERYTHING)
def test_the_rayservice_passes_the_strict_schema_of_kuberays_crd(name: str) -> None:
    (service,) = of_kind(rendered(name), "RayService")
    assert not complaints(service)


def test_a_misspelt_field_of_a_rayservice_is_found() -> None:
    (service,) = of_kind(rendered("dev"), "RayService")
    service["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParam"] = {}
    assert any("rayStartParam" in line for line in complaints(service))


def test_the_sources_keep_to_one_style() -> None:
    rules = Path(__file__).with_name("yamllint.yaml")
    command = [sys.executable, "-m", "yamllint", "--strict", "-c", str(rules), str(K8S)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
