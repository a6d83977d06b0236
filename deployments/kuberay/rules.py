"""What KubeRay's operator (1.7) refuses although its CRD allows it, so that it is known before anything is sent. Pure.

The operator would say so too, but in an event of an object that it then leaves alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from deployments.kuberay.manifests import Manifest, groups

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_MAX_NAME = 47
_GO_DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+")
_TIMEOUT = "ray.io/initializing-timeout"
_RESOURCE_PARAMS = ("num-cpus", "num-gpus", "memory", "resources")
_GATED = {
    "networkPolicy": "RayClusterNetworkPolicy",
    "tlsOptions": "RayClusterMTLS",
    "historyServerOptions": "RayClusterHistoryServer",
}


def violations(service: Manifest) -> list[str]:
    """One line for each rule that the RayService breaks; empty when the operator will take it."""
    return [line for rule in _RULES for line in rule(service)]


def _names(service: Manifest) -> Iterator[str]:
    name = service["metadata"]["name"]
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        yield f"metadata.name: {name!r} must be at most {_MAX_NAME} small letters, digits and dashes, a letter first"
    if service["spec"]["rayClusterConfig"]["headGroupSpec"].get("headService", {}).get("metadata", {}).get("name"):
        yield "headGroupSpec.headService.metadata.name must be empty: KubeRay names the service of each cluster"


def _timeout(service: Manifest) -> Iterator[str]:
    value = service["metadata"].get("annotations", {}).get(_TIMEOUT)
    if value is not None and not (_GO_DURATION.fullmatch(value) or (value.isdigit() and int(value) > 0)):
        yield f"annotation {_TIMEOUT}: {value!r} is neither a duration such as 30m nor a positive number of seconds"


def _cluster_upgrade(service: Manifest) -> Iterator[str]:
    if "upgradeStrategy" in service["spec"]["rayClusterConfig"]:
        yield "rayClusterConfig.upgradeStrategy is not for the cluster of a RayService; spec.upgradeStrategy is"


def _incremental(service: Manifest) -> Iterator[str]:
    strategy = service["spec"].get("upgradeStrategy", {})
    if strategy.get("type") != "NewClusterWithIncrementalUpgrade":
        return
    options = strategy.get("clusterUpgradeOptions", {})
    step, surge = options.get("stepSizePercent", -1), options.get("maxSurgePercent", 100)
    if not service["spec"]["rayClusterConfig"].get("enableInTreeAutoscaling"):
        yield "an incremental upgrade wants rayClusterConfig.enableInTreeAutoscaling"
    if not options.get("gatewayClassName"):
        yield "clusterUpgradeOptions.gatewayClassName is missing"
    if not 0 <= step <= surge <= 100:
        yield f"clusterUpgradeOptions: 0 <= stepSizePercent ({step}) <= maxSurgePercent ({surge}) <= 100 must hold"
    if options.get("intervalSeconds", 0) <= 0:
        yield "clusterUpgradeOptions.intervalSeconds must be greater than 0"


def _start_params(service: Manifest) -> Iterator[str]:
    for name, group in groups(service):
        params = group.get("rayStartParams", {})
        if "labels" in params:
            yield f"group {name}: rayStartParams.labels; labels go into the group's own field"
        doubled = [param for param in _RESOURCE_PARAMS if param in params]
        if group.get("resources") and doubled:
            yield f"group {name}: both `resources` and rayStartParams {', '.join(doubled)}; one of the two"
        wrong = [param for param, value in params.items() if not isinstance(value, str)]
        if wrong:
            yield f"group {name}: rayStartParams {', '.join(wrong)} must be strings"


def _sizes(service: Manifest) -> Iterator[str]:
    for group in service["spec"]["rayClusterConfig"].get("workerGroupSpecs", []):
        least, most = group.get("minReplicas"), group.get("maxReplicas")
        if least is None or most is None:
            yield f"group {group['groupName']}: minReplicas and maxReplicas must be written"
        elif least > most:
            yield f"group {group['groupName']}: minReplicas {least} is greater than maxReplicas {most}"


def _state_elsewhere(service: Manifest) -> Iterator[str]:
    """Fault tolerance of Ray's own state: either through the options, or not at all."""
    cluster = service["spec"]["rayClusterConfig"]
    options = cluster.get("gcsFaultToleranceOptions")
    for name, group in groups(service):
        for variable in ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD") if options is not None else ("RAY_REDIS_ADDRESS",):
            if variable in _variables(group):
                yield f"group {name}: {variable} in the environment; gcsFaultToleranceOptions says it"
        if options is not None and "redis-password" in group.get("rayStartParams", {}):
            yield f"group {name}: rayStartParams.redis-password beside gcsFaultToleranceOptions"
    backend = (options or {}).get("backend", "redis")
    if (options or {}).get("storage") and backend != "rocksdb":
        yield "gcsFaultToleranceOptions.storage goes with the backend rocksdb only"
    if backend == "rocksdb":
        yield _gate("gcsFaultToleranceOptions.backend rocksdb", "GCSFaultToleranceEmbeddedStorage")


def _autoscaler(service: Manifest) -> Iterator[str]:
    cluster = service["spec"]["rayClusterConfig"]
    version = cluster.get("autoscalerOptions", {}).get("version")
    second = version in (None, "v2")
    for name, group in groups(service):
        if version and "RAY_enable_autoscaler_v2" in _variables(group):
            yield f"group {name}: RAY_enable_autoscaler_v2 beside autoscalerOptions.version"
        policy = group["template"]["spec"].get("restartPolicy", "Never")
        if cluster.get("enableInTreeAutoscaling") and second and policy != "Never":
            yield f"group {name}: restartPolicy {policy}; autoscaler v2 wants Never"
        only_second = [field for field in ("idleTimeoutSeconds", "priority") if field in group]
        if only_second and not second:
            yield f"group {name}: {', '.join(only_second)} wants autoscaler v2"


def _token(service: Manifest) -> Iterator[str]:
    cluster = service["spec"]["rayClusterConfig"]
    options = cluster.get("authOptions")
    if options is None:
        return
    if options.get("enableK8sTokenAuth"):
        yield "authOptions.enableK8sTokenAuth is not for a RayService"
    if options.get("mode", "token") == "token" and _version(cluster.get("rayVersion")) < (2, 52):
        yield "authOptions.mode token wants rayVersion 2.52 or later"


def _gates(service: Manifest) -> Iterator[str]:
    for field, gate in _GATED.items():
        if field in service["spec"]["rayClusterConfig"]:
            yield _gate(f"rayClusterConfig.{field}", gate)


def _gate(what: str, gate: str) -> str:
    return f"{what} works only where the operator's feature gate {gate} is on, which is alpha: not used here"


def _variables(group: Manifest) -> set[str]:
    return {variable["name"] for variable in group["template"]["spec"]["containers"][0].get("env", [])}


def _version(text: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", str(text or "0"))[:2])


_RULES: tuple[Callable[[Manifest], Iterator[str]], ...] = (
    _names,
    _timeout,
    _cluster_upgrade,
    _incremental,
    _start_params,
    _sizes,
    _state_elsewhere,
    _autoscaler,
    _token,
    _gates,
)
