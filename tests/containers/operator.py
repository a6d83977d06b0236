"""KubeRay's part, played with Docker: the containers, environment, commands and probes it makes of a RayService.

Everything that can be is read from the rendered manifests; what is written here is what KubeRay 1.7 itself adds.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from deployments.kuberay.manifests import Manifest, groups, of_kind, ray_service
from tests.containers import docker
from tests.running import wait_for

TOKEN = "a-token-that-kuberay-would-have-made"
_KUBERAY_S = 300.0
_PROBE = (
    "wget --tries 1 -T 2 -q -O- http://localhost:52365/api/local_raylet_healthz | grep success && "
    "wget --tries 1 -T 10 -q -O- http://localhost:8000/-/healthz | grep success"
)
_MEMORY = {"Mi": 1 << 20, "Gi": 1 << 30}


@dataclass(frozen=True, slots=True)
class Pod:
    """A running container of the cluster."""

    name: str

    def url(self, port: int) -> str:
        return "http://" + docker.run("port", self.name, str(port)).splitlines()[0]

    def shell(self, command: str, *, check: bool = True) -> str:
        return docker.run("exec", self.name, "bash", "-c", command, check=check)

    def is_ready(self) -> bool:
        """As KubeRay's readiness probe of a worker finds it."""
        return docker.works("exec", self.name, "bash", "-c", _PROBE)

    def kill(self) -> None:
        docker.run("rm", "-f", self.name)


@dataclass(frozen=True, slots=True)
class Given:
    """What is no part of the manifests: Secrets' values, the folders behind claims, names of servers elsewhere."""

    secrets: dict[str, dict[str, str]]
    volumes: dict[str, Path]
    hosts: dict[str, str]


class Operator:
    """A RayService on a Docker network that is there already."""

    def __init__(self, manifests: list[Manifest], network: str, folder: Path, given: Given) -> None:
        self._manifests, self._folder, self._given = manifests, folder, given
        self._spec = ray_service(manifests)["spec"]
        self._groups = dict(groups(ray_service(manifests)))
        self._network = network
        namespace = ray_service(manifests)["metadata"]["namespace"]
        self._head_service = f"{network}-head-svc.{namespace}.svc.cluster.local"
        self._n_pods = 0

    @property
    def image(self) -> str:
        return str(self._container("head")["image"])

    def _container(self, group: str) -> dict[str, Any]:
        return dict(self._groups[group]["template"]["spec"]["containers"][0])

    def start_head(self) -> Pod:
        return self._start("head", "--head --dashboard-host=0.0.0.0", ["-p", "127.0.0.1::8265"], self._head_service)

    def start_worker(self, group: str) -> Pod:
        """After its init container has found the head."""
        check = f"until ray health-check --address {self._head_service}:6379; do sleep 1; done"
        environment = self._environment(group)
        docker.run("run", "--rm", "--network", self._network, *environment, self.image, "bash", "-c", check)
        return self._start(group, f"--address={self._head_service}:6379", ["-p", "127.0.0.1::8000"])

    def _start(self, group: str, role: str, ports: list[str], alias: str = "") -> Pod:
        self._n_pods += 1
        pod = Pod(f"{self._network}-{group}-{self._n_pods}")
        spec = self._groups[group]["template"]["spec"]
        user = spec["securityContext"]
        limits = self._container(group)["resources"]["limits"]
        memory = _bytes(limits["memory"])
        arguments = ["run", "--detach", "--name", pod.name, "--network", self._network, *ports]
        arguments += ["--network-alias", alias] if alias else []
        arguments += [f"--add-host={name}:{address}" for name, address in self._given.hosts.items()]
        arguments += ["--user", f"{user['runAsUser']}:{user['runAsGroup']}", *self._security(group)]
        arguments += ["--cpus", str(min(float(limits["cpu"]), os.cpu_count() or 1)), "--memory", str(memory)]
        arguments += ["--shm-size", str(memory), *self._environment(group), *self._mounts(group)]
        docker.run(*arguments, self.image, "/bin/bash", "-c", "--", self._command(group, role, limits["cpu"], memory))
        return pod

    def _command(self, group: str, role: str, cpu: str, memory: int) -> str:
        told = {"num-cpus": str(math.ceil(float(cpu))), "memory": str(memory)} | self._groups[group]["rayStartParams"]
        flags = " ".join(f"--{name}={value}" for name, value in told.items())
        common = "--metrics-export-port=8080 --block --dashboard-agent-listen-port=52365"
        return f"ulimit -n 65536; ray start {role} {common} {flags}"

    def _security(self, group: str) -> list[str]:
        context = self._container(group)["securityContext"]
        flags = [f"--cap-drop={each}" for each in context["capabilities"]["drop"]]
        flags += [] if context["allowPrivilegeEscalation"] else ["--security-opt", "no-new-privileges"]
        return flags + (["--read-only"] if context.get("readOnlyRootFilesystem") else [])

    def _environment(self, group: str) -> list[str]:
        container = self._container(group)
        variables: dict[str, str] = {}
        for source in container.get("envFrom", []):
            variables |= self._config(source["configMapRef"]["name"])
        for each in container.get("env", []):
            value = self._value(each)
            variables |= {} if value is None else {each["name"]: value}
        variables |= {
            "RAY_ADDRESS": f"{'127.0.0.1' if group == 'head' else self._head_service}:6379",
            "RAY_PORT": "6379",
            "RAY_CLUSTER_NAME": self._network,
        }
        variables |= {"RAY_timeout_ms_task_wait_for_death_info": "0", "RAY_gcs_server_request_timeout_seconds": "5"}
        variables |= {"RAY_SERVE_KV_TIMEOUT_S": "5", "FQ_RAY_IP": self._head_service}
        if self._spec["rayClusterConfig"].get("authOptions", {}).get("mode") == "token":
            variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        return [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]

    def _value(self, told: dict[str, Any]) -> str | None:
        if "value" in told:
            return str(told["value"])
        reference = told["valueFrom"]["secretKeyRef"]
        value = self._given.secrets.get(reference["name"], {}).get(reference["key"])
        assert value is not None or reference.get("optional"), (
            f"the Secret {reference['name']} lacks {reference['key']}"
        )
        return value

    def _config(self, name: str) -> dict[str, str]:
        return next(
            dict(each["data"]) for each in of_kind(self._manifests, "ConfigMap") if each["metadata"]["name"] == name
        )

    def _mounts(self, group: str) -> list[str]:
        volumes = {each["name"]: each for each in self._groups[group]["template"]["spec"]["volumes"]}
        flags = []
        for mount in self._container(group)["volumeMounts"]:
            source, target = volumes[mount["name"]], mount["mountPath"]
            if "emptyDir" in source:
                flags += ["--tmpfs", f"{target}:rw,exec,mode=1777"]
                continue
            here = self._folder_of(source)
            flags += ["--volume", f"{here}:{target}{':ro' if mount.get('readOnly') else ''}"]
        return flags

    def _folder_of(self, volume: dict[str, Any]) -> Path:
        if "persistentVolumeClaim" in volume:
            return self._given.volumes[volume["persistentVolumeClaim"]["claimName"]]
        name = volume["configMap"]["name"]
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        for file, text in self._config(name).items():
            (folder / file).write_text(text)
        return folder

    def deploy(self, head: Pod) -> None:
        """Hand the Serve configuration to the head, and wait until the application runs."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        applications = f"{head.url(8265)}/api/serve/applications/"
        wait_for(lambda: _speaks(applications), _KUBERAY_S, "the dashboard")
        config = yaml.safe_load(self._spec["serveConfigV2"])
        assert httpx.put(applications, json=config).status_code == 401, "not without the token"
        httpx.put(applications, json=config, headers=headers, timeout=60).raise_for_status()

        def running() -> bool:
            told = httpx.get(applications, headers=headers, timeout=30).json()["applications"]
            states = {each["status"]: each["message"] for each in told.values()}
            assert "DEPLOY_FAILED" not in states, states
            return set(states) == {"RUNNING"}

        wait_for(running, _KUBERAY_S, "the application runs")


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * _MEMORY[quantity[-2:]]


def _speaks(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code < 500
    except httpx.HTTPError:
        return False


def until_ready(pods: list[Pod]) -> None:
    for pod in pods:
        wait_for(pod.is_ready, _KUBERAY_S, f"{pod.name} passes its probe")
