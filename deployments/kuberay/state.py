"""What a cluster says of the service, read into values: conditions, applications, pods. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_CLUSTERS = (("active", "activeServiceStatus"), ("pending", "pendingServiceStatus"))
_NOT_A_PROBLEM = {"", "ContainerCreating", "PodInitializing", "Completed"}


@dataclass(frozen=True, slots=True)
class Part:
    """An application, or one of its deployments, of the cluster that serves (``active``) or of the next one."""

    cluster: str
    name: str
    status: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """``problem`` is why it does not run, as Kubernetes puts it; empty when it does, or soon will."""

    name: str
    group: str
    phase: str
    ready: bool
    restarts: int
    node: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """The RayService as last seen. ``settled``: the operator has taken in the newest spec and moved everything over."""

    ready: bool
    settled: bool
    conditions: tuple[tuple[str, str, str], ...]
    parts: tuple[Part, ...]
    pods: tuple[Pod, ...]

    @property
    def serving(self) -> bool:
        return self.ready and self.settled

    def lines(self) -> list[str]:
        """What there is to say, one line a thing; whoever waits prints those that are new."""
        return [
            *(f"{kind}: {state}{f' ({why})' if why else ''}" for kind, state, why in self.conditions),
            *(f"{part.cluster} {part.name}: {part.status} {part.message}".rstrip() for part in self.parts),
            *(_pod_line(pod) for pod in self.pods),
        ]


def _pod_line(pod: Pod) -> str:
    return f"pod {pod.name}: {pod.problem or pod.phase + (', ready' if pod.ready else '')}"


def read(service: dict[str, Any], pods: Iterable[dict[str, Any]]) -> Status:
    status = service.get("status") or {}
    found = {each["type"]: each for each in status.get("conditions", [])}
    generation = service["metadata"].get("generation", 0)
    moving = found.get("UpgradeInProgress", {}).get("status") == "True"
    return Status(
        ready=found.get("Ready", {}).get("status") == "True",
        settled=status.get("observedGeneration", 0) >= generation and not moving,
        conditions=tuple((each["type"], each["status"], each.get("reason", "")) for each in found.values()),
        parts=tuple(_parts(status)),
        pods=tuple(_pod(each) for each in pods),
    )


def _parts(status: dict[str, Any]) -> Iterator[Part]:
    for cluster, field in _CLUSTERS:
        applications = (status.get(field) or {}).get("applicationStatuses") or {}
        for name, application in applications.items():
            yield Part(cluster, name, application.get("status", ""), _one_line(application.get("message")))
            for inner, deployment in (application.get("serveDeploymentStatuses") or {}).items():
                yield Part(
                    cluster, f"{name}/{inner}", deployment.get("status", ""), _one_line(deployment.get("message"))
                )


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())[:300]


def _pod(pod: dict[str, Any]) -> Pod:
    status = pod.get("status") or {}
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    ready = [each["status"] for each in status.get("conditions", []) if each["type"] == "Ready"]
    return Pod(
        name=pod["metadata"]["name"],
        group=pod["metadata"].get("labels", {}).get("ray.io/group", ""),
        phase=status.get("phase", "Unknown"),
        ready=ready == ["True"],
        restarts=sum(each.get("restartCount", 0) for each in containers),
        node=pod.get("spec", {}).get("nodeName", ""),
        problem=_problem(status, containers),
    )


def _problem(status: dict[str, Any], containers: list[dict[str, Any]]) -> str:
    for container in containers:
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("reason", "") not in _NOT_A_PROBLEM:
            return _one_line(f"{waiting['reason']} {waiting.get('message', '')}")
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _one_line(f"{condition.get('reason', '')} {condition.get('message', '')}")
    return ""
