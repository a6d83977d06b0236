"""A Tiltfile, run without Tilt: the interpreter is a Starlark one, Tilt's functions have their real signatures and only
record what they are told."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import starlark
import yaml

from deployments.kuberay.manifests import render
from tests.k8s.rendering import ROOT

TILTFILE = ROOT / "Tiltfile"


@dataclass
class Recorded:
    """What the Tiltfile asked for, by function, as bound arguments; what it printed; its objects."""

    calls: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    printed: list[str] = field(default_factory=list)
    objects: list[dict[str, Any]] = field(default_factory=list)

    def all(self, function: str) -> list[dict[str, Any]]:
        return self.calls.get(function, [])

    def resources(self) -> dict[str, dict[str, Any]]:
        """Everything with a name that others may wait for."""
        made = [
            *self.all("k8s_resource"),
            *self.all("local_resource"),
            *self.all("helm_resource"),
            *self.all("helm_repo"),
        ]
        return {each.get("workload") or each["name"]: each for each in made}


class FakeTilt:
    """Tilt's functions. Arguments are checked against the signatures below, which are those of Tilt's documentation."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.recorded = Recorded()
        self._settings = dict(settings)
        self._defined: set[str] = set()

    def functions(self) -> dict[str, Callable[..., Any]]:
        names = [name.removeprefix("tilt_") for name in dir(self) if name.startswith("tilt_")]
        return {name: self._recording(name, getattr(self, f"tilt_{name}")) for name in names}

    def _recording(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)

        def call(*arguments: Any, **named: Any) -> Any:
            bound = signature.bind(*arguments, **named)
            bound.apply_defaults()
            self.recorded.calls.setdefault(name, []).append(dict(bound.arguments))
            return function(*arguments, **named)

        return call

    # --- settings ---
    def tilt_allow_k8s_contexts(self, contexts: list[str]) -> None: ...

    def tilt_define_bool(self, name: str, args: bool = False, usage: str = "") -> None:
        self._defined.add(name)

    tilt_define_string = tilt_define_bool

    def tilt_parse(self) -> dict[str, Any]:
        assert set(self._settings) <= self._defined
        return self._settings

    def tilt_exists(self, path: str) -> bool:
        return (ROOT / path).exists()

    def tilt_dotenv(self, fn: str = ".env", showValues: bool = False) -> None: ...

    def tilt_fail(self, message: str) -> None:
        raise AssertionError(message)

    def tilt_print(self, *values: Any) -> None:
        self.recorded.printed.append(" ".join(map(str, values)))

    # --- files ---
    def tilt_read_file(self, path: str, default: str | None = None) -> str:
        return (ROOT / path).read_text()

    def tilt_kustomize(self, path: str, kustomize_bin: str = "", flags: list[str] | None = None) -> str:
        return render(ROOT / path)

    def tilt_decode_yaml_stream(self, text: str) -> list[Any]:
        return [each for each in yaml.safe_load_all(text) if each]

    def tilt_encode_yaml_stream(self, objects: list[Any]) -> str:
        return yaml.safe_dump_all(objects)

    # --- images and objects ---
    def tilt_docker_build(
        self,
        ref: str,
        context: str,
        build_args: dict[str, str] | None = None,
        dockerfile: str = "Dockerfile",
        dockerfile_contents: str = "",
        live_update: list[Any] | None = None,
        match_in_env_vars: bool = False,
        ignore: list[str] | None = None,
        only: list[str] | None = None,
        target: str = "",
    ) -> None: ...

    def tilt_sync(self, local_path: str, remote_path: str) -> list[str]:
        return ["sync", local_path, remote_path]

    def tilt_fall_back_on(self, files: list[str]) -> list[Any]:
        return ["fall_back_on", *files]

    def tilt_k8s_kind(
        self, kind: str, api_version: str = "", image_json_path: list[str] | None = None, pod_readiness: str = ""
    ) -> None: ...

    def tilt_k8s_yaml(self, yaml: Any, allow_duplicates: bool = False) -> None:
        self.recorded.objects += self.tilt_decode_yaml_stream(yaml)

    def tilt_secret_from_dict(self, name: str, namespace: str = "", inputs: dict[str, str] | None = None) -> str:
        metadata = {"name": name, "namespace": namespace}
        return yaml.safe_dump({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": inputs})

    # --- resources ---
    def tilt_k8s_resource(
        self,
        workload: str = "",
        new_name: str = "",
        port_forwards: list[str] | None = None,
        extra_pod_selectors: list[dict[str, str]] | None = None,
        objects: list[str] | None = None,
        trigger_mode: str = "",
        resource_deps: list[str] | None = None,
        auto_init: bool = True,
        pod_readiness: str = "",
        links: list[str] | None = None,
        labels: list[str] | None = None,
        discovery_strategy: str = "",
    ) -> None: ...

    def tilt_local_resource(
        self,
        name: str,
        cmd: Any = "",
        deps: list[str] | None = None,
        trigger_mode: str = "",
        resource_deps: list[str] | None = None,
        ignore: list[str] | None = None,
        auto_init: bool = True,
        serve_cmd: Any = "",
        links: list[str] | None = None,
        labels: list[str] | None = None,
        env: dict[str, str] | None = None,
        readiness_probe: Any = None,
        dir: str = "",
        allow_parallel: bool = False,
    ) -> None: ...

    def tilt_probe(
        self,
        initial_delay_secs: int = 0,
        timeout_secs: int = 1,
        period_secs: int = 10,
        http_get: Any = None,
    ) -> Any:
        return http_get

    def tilt_http_get_action(self, port: int, host: str = "localhost", scheme: str = "http", path: str = "") -> str:
        return f"{scheme}://{host}:{port}{path}"

    def tilt_helm_repo(self, name: str, url: str, resource_name: str = "", labels: list[str] | None = None) -> None: ...

    def tilt_helm_resource(
        self,
        name: str,
        chart: str,
        deps: list[str] | None = None,
        release_name: str = "",
        namespace: str = "",
        flags: list[str] | None = None,
        pod_readiness: str = "",
        resource_deps: list[str] | None = None,
        labels: list[str] | None = None,
    ) -> None: ...


_EXTENSIONS = {
    "ext://helm_resource": ("helm_resource", "helm_repo"),
    "ext://secret": ("secret_from_dict",),
    "ext://dotenv": ("dotenv",),
}

_PRELUDE = """
os = struct(environ=ENVIRON, path=struct(exists=exists))
config = struct(define_bool=define_bool, define_string=define_string, parse=parse)
TRIGGER_MODE_MANUAL = 'manual'
"""


def run(settings: Mapping[str, Any], environment: Mapping[str, str], source: Path = TILTFILE) -> Recorded:
    """What the Tiltfile does with these settings, in a shell with this environment."""
    tilt = FakeTilt(settings)
    functions = tilt.functions()
    loaded = {name for names in _EXTENSIONS.values() for name in names}
    module = starlark.Module()
    for name, function in functions.items():
        if name not in loaded:
            module.add_callable(name, function)
    module["ENVIRON"] = dict(environment)
    _eval(module, "prelude", _PRELUDE, functions)
    _eval(module, source.name, source.read_text(), functions)
    return tilt.recorded


def _eval(module: starlark.Module, name: str, text: str, functions: dict[str, Callable[..., Any]]) -> None:
    dialect = starlark.Dialect.extended()
    dialect.enable_f_strings = False  # Tilt's interpreter has none
    dialect.enable_top_level_stmt = True
    globals_ = starlark.Globals.extended_by([starlark.LibraryExtension.StructType])

    def load(extension: str) -> starlark.FrozenModule:
        part = starlark.Module()
        for function in _EXTENSIONS[extension]:
            part.add_callable(function, functions[function])
        return part.freeze()

    starlark.eval(module, starlark.parse(name, text, dialect), globals_, starlark.FileLoader(load))
