"""What the tests of manifests look at: every overlay, and the base with each component."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deployments.kuberay.manifests import Manifest, parse, render

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir())
EVERYTHING = [
    *OVERLAYS,
    *(f"base+{name}" for name in COMPONENTS),
    "prod+" + "+".join(("gpu", "ha-gcs-redis", "monitoring")),
]
"""Names for ``rendered``: an overlay, or a base or overlay with components added to it."""


@cache
def _text(name: str) -> str:
    base, *components = name.split("+")
    folder = K8S / ("base" if base == "base" else f"overlays/{base}")
    if not components:
        return render(folder)
    with tempfile.TemporaryDirectory() as place:
        told: dict[str, Any] = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(folder, Path(place).resolve())],
            "components": [os.path.relpath(K8S / "components" / each, Path(place).resolve()) for each in components],
        }
        (Path(place) / "kustomization.yaml").write_text(yaml.safe_dump(told))
        return render(Path(place))


def rendered(name: str) -> list[Manifest]:
    """Manifests of one's own to change."""
    return parse(_text(name))
