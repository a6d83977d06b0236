"""The whole picture: which deployments there are, what each is told, and who holds a handle to whom.

client ── HAProxy ──> Ingress ──> LocalModel (one per GGUF model)
                         ├──────> UpstreamModel (one per OpenAI-compatible server)
                         └──────> ConversationStore (one replica: the only writer)
"""

# No `from __future__ import annotations` here: Serve reads the type of build's argument, and would find a string.
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from config.settings import ModelSettings, Settings, UpstreamSettings, load, secret_names
from deployments.affinity import AffinityRouter
from deployments.conversation_store import ConversationStore
from deployments.ingress import Ingress, IngressOptions
from deployments.local_model import LocalModel
from deployments.resources import ModelResources, plan
from deployments.upstream_model import UpstreamModel
from serve_app.api.directory import Alias
from serve_app.engine.loading import EmbeddingModelOptions, LocalModelOptions

LONGEST_STREAM_S = 630.0
"""The whole-request deadline and what it takes to say that it passed: no replica is stopped under a stream."""

OPENMP_SPINS = "300"
"""How often a thread of llama.cpp looks at a barrier before it sleeps. Measured on 2 cores, tok/s at batch 1 / 16:
never ("passive") 38 / 190, 300 times 137 / 255, libgomp's 300,000 times 120 / 260; with one core busy elsewhere
65 / 130, 45 / 115, 25 / 80. Waking a thread is dear, and one that spins takes the core from whom it waits for."""

_BACKPRESSURE = {"status_code": 429, "retry_after_s": 1}


class GraphArgs(BaseModel):
    """``args`` in ``serve_config.yaml``; on the command line ``serve run deployments.graph:build key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models_file: Path | None = None
    """Another ``models.yaml``."""

    cpus: int | None = Field(None, ge=1)
    """CPUs that models without named threads share; default: this machine's."""

    ingress_cpus: float = Field(0, ge=0)
    """num_cpus of an ingress replica; 0 on one machine, where models own the cores."""

    ingress_replicas: int = Field(1, ge=1)
    """How many ingress replicas there are at least; two survive the loss of one."""

    ingress_max_replicas: int = Field(4, ge=1)

    ingress_max_replicas_per_node: int | None = Field(None, ge=1, le=100)
    """1: no node takes two ingress replicas with it."""

    upstream_cpus: float = Field(0, ge=0)
    """num_cpus of an upstream's replica. What takes some CPU is never put on a head that offers none."""

    store_cpus: float = Field(0, ge=0)
    """num_cpus of the store's replica."""


def build(args: GraphArgs) -> Application:
    """Serve's entry point: settings from the environment and ``models.yaml``."""
    settings = load(args.models_file)
    return compose(args, settings, hidden=secret_names(settings))


def compose(args: GraphArgs, settings: Settings, *, hidden: Collection[str]) -> Application:
    """The graph for these settings. ``hidden``: variables of Ray's own environment that no replica may see.

    With none, replicas start in Ray's prepared workers; an environment of its own costs each a process more.
    """
    catalogue = settings.catalogue
    resources = plan(catalogue.models, args.cpus or os.cpu_count() or 1)
    quiet = dict.fromkeys(hidden, "")
    options = IngressOptions(
        api_keys=tuple(key.get_secret_value() for key in settings.api_keys),
        behind_haproxy=settings.behind_haproxy,
        aliases={name: Alias(each.model, each.only_without_upstream) for name, each in catalogue.aliases.items()},
        caller_key=frozenset(name for name, upstream in settings.upstreams.items() if upstream.caller_key),
        private_accounts=frozenset(name for name, each in settings.upstreams.items() if not _shared(each, settings)),
        spool_folder=str(settings.data_dir / "spool"),
        files_folder=str(settings.data_dir / "files"),
        log_level=settings.log_level,
    )
    ingress = serve.deployment(
        name="Ingress",
        ray_actor_options={"num_cpus": args.ingress_cpus, **_environment(quiet)},
        autoscaling_config=AutoscalingConfig(
            min_replicas=args.ingress_replicas,
            max_replicas=max(args.ingress_replicas, args.ingress_max_replicas),
            target_ongoing_requests=200,
            # A change of ingress replicas makes HAProxy reload: rare is better than exact.
            downscale_delay_s=1800,
        ),
        max_replicas_per_node=args.ingress_max_replicas_per_node,
        max_ongoing_requests=2000,
        graceful_shutdown_timeout_s=LONGEST_STREAM_S,
    )
    application: Application = ingress(Ingress).bind(
        options,
        {name: _local(name, model, resources[name], settings, quiet) for name, model in catalogue.models.items()},
        {name: _upstream(name, each, args, settings, quiet) for name, each in settings.upstreams.items()},
        _store(args, settings, quiet),
    )
    return application


def _local(
    name: str, model: ModelSettings, resources: ModelResources, settings: Settings, quiet: dict[str, str]
) -> Application:
    """One LocalModel. Requests queue in the engine, which sees them all, not in Ray's router, which polls."""
    # libgomp reads these when it loads.
    environment = {**quiet, "GOMP_SPINCOUNT": OPENMP_SPINS, "OMP_NUM_THREADS": str(resources.n_threads)}
    deployment = serve.deployment(
        name=_deployment_name("LocalModel", name),
        ray_actor_options={**resources.actor_options(), **_environment(environment)},
        autoscaling_config=AutoscalingConfig(
            min_replicas=model.replicas.min,
            max_replicas=model.replicas.max,
            target_ongoing_requests=model.slots,
            metrics_interval_s=2,
            look_back_period_s=10,
            upscale_delay_s=5,
        ),
        max_replicas_per_node=model.max_replicas_per_node,
        max_ongoing_requests=2 * model.slots + model.queue,
        max_queued_requests=2 * (model.slots + model.queue),
        backpressure_config=_BACKPRESSURE,
        request_router_config=RequestRouterConfig(
            request_router_class=AffinityRouter,
            request_router_kwargs={"slack": max(1, model.slots // 2)},
            max_backoff_s=0.1,
        ),
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=LONGEST_STREAM_S,
    )
    application: Application = deployment(LocalModel).bind(_told(name, model, resources.n_threads), settings.log_level)
    return application


def _told(name: str, model: ModelSettings, n_threads: int) -> LocalModelOptions | EmbeddingModelOptions:
    """What a replica of a model is told, by the kind of the model."""
    if model.kind == "embedding":
        return EmbeddingModelOptions(
            model=name,
            path=str(model.file),
            copies=tuple(map(str, model.copies)),
            n_context=model.context,
            n_threads=n_threads,
            n_gpu_layers=model.gpu_layers,
            n_queue=model.queue,
            pooling=model.pooling,
            dimensions=model.dimensions,
        )
    return LocalModelOptions(
        model=name,
        path=str(model.file),
        copies=tuple(map(str, model.copies)),
        n_context=model.context,
        n_slots=model.slots,
        n_cells=model.n_cells,
        n_threads=n_threads,
        n_gpu_layers=model.gpu_layers,
        n_queue=model.queue,
        type_k=model.cache_type_k,
        type_v=model.cache_type_v,
        lora=tuple((str(each.file), each.scale) for each in model.lora),
    )


def _upstream(
    name: str, upstream: UpstreamSettings, args: GraphArgs, settings: Settings, quiet: dict[str, str]
) -> Application:
    """One UpstreamModel. The key travels as an argument, to this deployment only."""
    key = upstream.api_key.get_secret_value() if upstream.api_key else None
    deployment = serve.deployment(
        name=_deployment_name("UpstreamModel", name),
        ray_actor_options={"num_cpus": args.upstream_cpus, **_environment(quiet)},
        autoscaling_config=AutoscalingConfig(min_replicas=1, max_replicas=4, target_ongoing_requests=200),
        max_ongoing_requests=2000,
        graceful_shutdown_timeout_s=LONGEST_STREAM_S,
    )
    application: Application = deployment(UpstreamModel).bind(
        name, key, upstream.base_url, upstream.models, settings.log_level
    )
    return application


def _store(args: GraphArgs, settings: Settings, quiet: dict[str, str]) -> Application:
    """The one writer: never two at a time, not even during an update."""
    deployment = serve.deployment(
        name="ConversationStore",
        num_replicas=1,
        ray_actor_options={"num_cpus": args.store_cpus, **_environment(quiet)},
        max_ongoing_requests=2000,
        health_check_period_s=2,
        graceful_shutdown_timeout_s=15,
    )
    application: Application = deployment(ConversationStore).bind(
        settings.database_url.get_secret_value(), settings.log_level
    )
    return application


def _shared(upstream: UpstreamSettings, settings: Settings) -> bool:
    """Whether all callers may use the objects in the upstream's account: only one of them, unless the operator says."""
    return len(settings.api_keys) <= 1 if upstream.shared_account is None else upstream.shared_account


def _environment(variables: dict[str, str]) -> dict[str, Any]:
    return {"runtime_env": {"env_vars": variables}} if variables else {}


def _deployment_name(kind: str, name: str) -> str:
    """Ray uses the name in paths: only plain characters."""
    return f"{kind}-" + "".join(char if char.isalnum() or char in "-._" else "_" for char in name)
