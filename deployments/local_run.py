"""A whole cluster on this machine, for as long as one process lives: Ray, Serve, the graph."""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import serve
from ray.serve.schema import LoggingConfig

from config.neighbours import free_port
from config.settings import Settings
from deployments.resources import total_cpus

APP = "llm-backend"
START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 10.0
_CONTROLLER = "SERVE_CONTROLLER_ACTOR"
_STOPPED = "Stopped before the server was ready."


class StartError(Exception):
    """The server could not start; one line that says why."""


@dataclass(frozen=True, slots=True)
class Report:
    """What there is once the server answers."""

    url: str
    models: list[str]
    complaints: list[str]


class LocalRun:
    """Owns every process it starts: ``stop`` leaves none behind."""

    def __init__(self, *, port: int, dashboard: bool = False) -> None:
        self._port = port
        self._dashboard = dashboard
        self._started = False

    def start(self, settings: Settings, models_file: Path | None, stop: threading.Event) -> Report:
        """Blocks until the API answers. Raises StartError; ``stop`` set from outside ends the wait."""
        _check_free(self._port)
        n_cpus = os.cpu_count() or 1
        wanted = total_cpus(settings.catalogue.models, n_cpus)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        # Ray's processes, the imports of the graph and Serve's own proxies take seconds each: side by side.
        with ThreadPoolExecutor(2) as beside:
            imports = beside.submit(importlib.import_module, "deployments.graph")
            self._start_ray(max(n_cpus, math.ceil(wanted)))
            proxies = beside.submit(self._start_serve, settings.log_level)
            imports.result()
            _wait_for_controller(stop)
            _deploy(settings, models_file)
            proxies.result()
        url = f"http://127.0.0.1:{self._port}"
        key = settings.api_keys[0].get_secret_value() if settings.api_keys else None
        _wait_until_ready(url, stop)
        names = _models(url, key)
        missing = [name for name in settings.catalogue.models if name not in names]
        crowded = [f"The models name {wanted:g} threads, this machine has {n_cpus} cores."] if wanted > n_cpus else []
        return Report(url, names, crowded + _complaints(url, key, missing))

    def _start_ray(self, num_cpus: int) -> None:
        ray.init(
            address="local",
            # On one machine models that name more threads than there are cores share them; a cluster would wait.
            num_cpus=num_cpus,
            include_dashboard=self._dashboard,
            logging_level=logging.ERROR,
            log_to_driver=False,
            configure_logging=True,
            namespace="serve",
        )
        self._started = True

    def _start_serve(self, log_level: str) -> None:
        """Returns once the proxies listen."""
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": "127.0.0.1", "port": self._port},
            logging_config=LoggingConfig(log_level=log_level, enable_access_log=False),
        )

    def stop(self) -> None:
        """End the graph and Ray, and whatever of it would not go by itself."""
        if not self._started:
            return
        children = psutil.Process(os.getpid()).children(recursive=True)
        # Not serve.shutdown: it kills its own controller while that answers, and Ray complains on the terminal.
        ending = threading.Thread(target=serve.delete, args=(APP,), daemon=True)
        ending.start()
        ending.join(_STOP_TIMEOUT_S)
        ray.shutdown()
        for process in psutil.wait_procs(children, timeout=3)[1]:
            process.kill()
        self._started = False


def _check_free(port: int) -> None:
    """HAProxy would only say so in its own log."""
    if free_port(port) is None:
        raise StartError(f"Port {port} is taken; choose another: make run PORT=8001")


def _wait_for_controller(stop: threading.Event) -> None:
    """Applications can be deployed from now on; Serve would otherwise wait for its proxies first."""
    while not stop.wait(0.05):
        if any(actor["name"] == _CONTROLLER for actor in ray.util.list_named_actors(all_namespaces=True)):
            serve.status()
            return
    raise StartError(_STOPPED)


def _deploy(settings: Settings, models_file: Path | None) -> None:
    from deployments.graph import GraphArgs, compose  # imported already, beside the start of Ray

    # Nothing to hide: the secrets left the environment before Ray inherited it.
    graph = compose(GraphArgs(models_file=models_file), settings, hidden=())
    target = serve.RunTarget(graph, name=APP, route_prefix="/")
    serve.run_many([target], wait_for_applications_running=False)


def _wait_until_ready(url: str, stop: threading.Event) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not stop.wait(0.1):
        state = serve.status().applications.get(APP)
        if state and state.status == "DEPLOY_FAILED" and not _answers(f"{url}/health"):
            raise StartError(f"The graph did not start: {' '.join(state.message.split())[:300]}")
        if _answers(f"{url}/health") and state and state.status in ("RUNNING", "UNHEALTHY", "DEPLOY_FAILED"):
            return
        if time.monotonic() > deadline:
            raise StartError(f"The graph did not start within {START_TIMEOUT_S:.0f} s")
    raise StartError(_STOPPED)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 (our own loopback address)
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _ask(url: str, key: str | None, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request to our own API; the error's body is an answer too."""
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None)  # noqa: S310
    request.add_header("Content-Type", "application/json")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        return dict(json.load(error))


def _models(url: str, key: str | None) -> list[str]:
    return [str(card["id"]) for card in _ask(f"{url}/v1/models", key)["data"]]


def _complaints(url: str, key: str | None, missing: list[str]) -> list[str]:
    """Why models are missing: asked for anything, they say so."""
    prompts = [{"model": name, "messages": [{"role": "user", "content": "?"}], "max_tokens": 1} for name in missing]
    answers = [_ask(f"{url}/v1/chat/completions", key, prompt) for prompt in prompts]
    return [str(answer["error"]["message"]) for answer in answers if "error" in answer]
