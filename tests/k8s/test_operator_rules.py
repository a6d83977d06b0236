"""What KubeRay's operator refuses is found before it is asked. Each test breaks one rule of a good RayService."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deployments.kuberay.manifests import Manifest, of_kind
from deployments.kuberay.rules import violations
from tests.k8s.rendering import EVERYTHING, rendered

Break = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], object]
"""Gets the RayService, its cluster and the cluster's first worker group."""


def service(name: str = "base") -> Manifest:
    (found,) = of_kind(rendered(name), "RayService")
    return found


@pytest.mark.parametrize("name", EVERYTHING)
def test_the_operator_takes_every_overlay_and_component(name: str) -> None:
    assert violations(service(name)) == []


def _container(group: dict[str, Any]) -> list[dict[str, str]]:
    variables: list[dict[str, str]] = group["template"]["spec"]["containers"][0]["env"]
    return variables


BROKEN: dict[str, tuple[str, Break]] = {
    "a name of 48 letters": ("at most 47", lambda s, c, g: s["metadata"].update(name="a" * 48)),
    "a name that begins with a digit": ("a letter first", lambda s, c, g: s["metadata"].update(name="1-llm")),
    "a timeout that is no duration": (
        "initializing-timeout",
        lambda s, c, g: s["metadata"]["annotations"].update({"ray.io/initializing-timeout": "soon"}),
    ),
    "a timeout of zero seconds": (
        "initializing-timeout",
        lambda s, c, g: s["metadata"]["annotations"].update({"ray.io/initializing-timeout": "0"}),
    ),
    "an upgrade strategy of the cluster": ("spec.upgradeStrategy is", lambda s, c, g: c.update(upgradeStrategy={})),
    "a named head service": (
        "headService",
        lambda s, c, g: c["headGroupSpec"].update(headService={"metadata": {"name": "mine"}}),
    ),
    "CPUs said twice": (
        "both `resources` and rayStartParams num-cpus",
        lambda s, c, g: c["headGroupSpec"].update(resources={"CPU": "1"}),
    ),
    "labels as start parameters": ("rayStartParams.labels", lambda s, c, g: g["rayStartParams"].update(labels="a=b")),
    "a start parameter that is a number": ("must be strings", lambda s, c, g: g["rayStartParams"].update(block=1)),
    "more workers at least than at most": ("greater than maxReplicas", lambda s, c, g: g.update(minReplicas=9)),
    "a group without bounds": ("must be written", lambda s, c, g: g.pop("maxReplicas")),
    "Redis by hand": (
        "gcsFaultToleranceOptions says it",
        lambda s, c, g: _container(g).append({"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}),
    ),
    "Redis' password by hand": (
        "REDIS_PASSWORD",
        lambda s, c, g: (
            c.update(gcsFaultToleranceOptions={"redisAddress": "redis:6379"}),
            _container(g).append({"name": "REDIS_PASSWORD", "value": "x"}),
        ),
    ),
    "Redis' password as a start parameter": (
        "redis-password",
        lambda s, c, g: (
            c.update(gcsFaultToleranceOptions={"redisAddress": "redis:6379"}),
            c["headGroupSpec"]["rayStartParams"].update({"redis-password": "x"}),
        ),
    ),
    "a volume for Redis": (
        "rocksdb only",
        lambda s, c, g: c.update(gcsFaultToleranceOptions={"redisAddress": "r:1", "storage": {"size": "1Gi"}}),
    ),
    "an alpha backend": (
        "GCSFaultToleranceEmbeddedStorage",
        lambda s, c, g: c.update(gcsFaultToleranceOptions={"backend": "rocksdb"}),
    ),
    "restarts beside autoscaler v2": (
        "wants Never",
        lambda s, c, g: g["template"]["spec"].update(restartPolicy="Always"),
    ),
    "the autoscaler's version said twice": (
        "beside autoscalerOptions.version",
        lambda s, c, g: _container(g).append({"name": "RAY_enable_autoscaler_v2", "value": "1"}),
    ),
    "a priority for autoscaler v1": (
        "wants autoscaler v2",
        lambda s, c, g: (c["autoscalerOptions"].update(version="v1"), g.update(priority=1)),
    ),
    "a token for an old Ray": (
        "2.52",
        lambda s, c, g: c.update(authOptions={"mode": "token"}, rayVersion="2.51.1"),
    ),
    "a token, unsaid, for an old Ray": ("2.52", lambda s, c, g: c.update(authOptions={}, rayVersion="2.9.0")),
    "Kubernetes' own tokens": (
        "enableK8sTokenAuth",
        lambda s, c, g: c.update(authOptions={"mode": "token", "enableK8sTokenAuth": True}),
    ),
    "a network policy of KubeRay's": ("RayClusterNetworkPolicy", lambda s, c, g: c.update(networkPolicy={})),
    "TLS of KubeRay's": ("RayClusterMTLS", lambda s, c, g: c.update(tlsOptions={})),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_the_operator_refuses_is_found(what: str) -> None:
    said, break_it = BROKEN[what]
    broken = service()
    cluster = broken["spec"]["rayClusterConfig"]
    break_it(broken, cluster, cluster["workerGroupSpecs"][0])
    (line,) = violations(broken)
    assert said in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stepSizePercent": 60, "maxSurgePercent": 50}, "stepSizePercent (60)"),
        ({"maxSurgePercent": 101}, "<= 100"),
        ({"intervalSeconds": 0}, "intervalSeconds"),
        ({"gatewayClassName": ""}, "gatewayClassName"),
    ],
)
def test_an_incremental_upgrade_keeps_to_its_own_rules(options: dict[str, Any], said: str) -> None:
    broken = service("base+incremental-upgrade")
    broken["spec"]["upgradeStrategy"]["clusterUpgradeOptions"] |= options
    (line,) = violations(broken)
    assert said in line


def test_an_incremental_upgrade_wants_the_autoscaler() -> None:
    broken = service("base+incremental-upgrade")
    broken["spec"]["rayClusterConfig"]["enableInTreeAutoscaling"] = False
    (line,) = violations(broken)
    assert "enableInTreeAutoscaling" in line
