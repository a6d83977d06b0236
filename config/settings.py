"""Settings: everything an operator can say, read once from the environment and ``models.yaml``, checked at start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent
RAY_ENV = Path(__file__).with_name("ray.env")

_OVERRIDDEN = "llama"
"""The model that LLAMA_MODEL_FILE and LLAMA_CONTEXT_SIZE are about."""

_OPENAI = "openai"
"""The upstream that OPENAI_BASE_URL is about."""


class SettingsError(Exception):
    """What is wrong with the configuration, one line for each key."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Replicas(_Strict):
    min: int = Field(1, ge=0)
    max: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.min > self.max:
            raise ValueError("min must not be greater than max")
        return self


class LoraSettings(_Strict):
    """A LoRA adapter in a GGUF file, and how strongly it counts."""

    file: Path
    scale: float = Field(1.0, ge=-100, le=100)


CacheType = Literal["f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


class ModelSettings(_Strict):
    """One GGUF model: what it is, and what a replica of it takes."""

    file: Path
    copies: tuple[Path, ...] = ()
    kind: Literal["text", "embedding"] = "text"
    pooling: Literal["mean", "cls", "last"] | None = None
    dimensions: tuple[Annotated[int, Field(ge=1)], ...] = ()
    context: int = Field(4096, ge=64, le=1 << 22)
    slots: int = Field(16, ge=1, le=256)
    cache_tokens: int | None = Field(None, ge=64)
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    lora: tuple[LoraSettings, ...] = ()
    threads: int | None = Field(None, ge=1)
    gpu_layers: int = Field(0, ge=-1)
    num_gpus: float = Field(0, ge=0)
    accelerator_type: str | None = None
    resources: dict[str, PositiveFloat] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    max_replicas_per_node: int | None = Field(None, ge=1, le=100)
    memory_bytes: int | None = Field(None, ge=1)
    queue: int = Field(256, ge=1)
    replicas: Replicas = Replicas()

    @model_validator(mode="after")
    def _gpus_and_layers(self) -> ModelSettings:
        if bool(self.gpu_layers) != bool(self.num_gpus):
            raise ValueError("gpu_layers and num_gpus go together: layers need a GPU, and a GPU layers")
        return self

    @model_validator(mode="after")
    def _of_its_kind(self) -> ModelSettings:
        if self.kind != "embedding" and (self.pooling or self.dimensions):
            raise ValueError("pooling and dimensions are of models whose kind is embedding")
        if self.kind == "embedding" and (self.cache_tokens or self.lora):
            raise ValueError("an embedding model has no cache_tokens (it keeps nothing) and no lora")
        return self

    @property
    def n_cells(self) -> int:
        if self.kind == "embedding":
            return self.context
        return max(self.cache_tokens or 4 * self.context, self.context)


class AliasSettings(_Strict):
    model: str
    only_without_upstream: bool = False


class UpstreamSettings(_Strict):
    base_url: str | None = None
    api_key_env: str | None = None
    models: tuple[str, ...] | None = None
    caller_key: bool = False
    shared_account: bool | None = None
    api_key: SecretStr | None = Field(None, exclude=True)

    @property
    def enabled(self) -> bool:
        """On with a key, with none needed, or with the callers' own."""
        return self.api_key is not None or self.api_key_env is None or self.caller_key


ModelId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]


class Catalogue(_Strict):
    """``models.yaml``."""

    models: dict[ModelId, ModelSettings] = Field(default_factory=dict)
    aliases: dict[ModelId, AliasSettings] = Field(default_factory=dict)
    upstreams: dict[str, UpstreamSettings] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _aliases_lead_somewhere(self) -> Catalogue:
        for name, alias in self.aliases.items():
            if alias.model not in self.models:
                raise ValueError(f"aliases.{name}.model names {alias.model!r}, which is not under models")
        return self


class Environment(BaseSettings):
    """The variables. Empty ones count as not set."""

    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True, extra="ignore")

    llama_model_file: Path | None = None
    llama_context_size: int | None = Field(None, ge=64)
    openai_base_url: str | None = None
    database_url: SecretStr | None = None
    llm_backend_data_dir: Path = ROOT / "data"
    llm_backend_api_key: SecretStr | None = None
    llm_backend_models: Path = ROOT / "config" / "models.yaml"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    ray_serve_enable_ha_proxy: bool = False
    ray_serve_haproxy_balance_algorithm: str = ""

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


class Settings(_Strict):
    """What the graph is built from. Relative paths have become absolute."""

    catalogue: Catalogue
    data_dir: Path
    database_url: SecretStr
    api_keys: tuple[SecretStr, ...]
    log_level: str
    behind_haproxy: bool

    @property
    def upstreams(self) -> dict[str, UpstreamSettings]:
        """Those that are on."""
        return {name: upstream for name, upstream in self.catalogue.upstreams.items() if upstream.enabled}


def load(models_file: Path | None = None) -> Settings:
    """Read and check everything. Raises SettingsError, which names each wrong key and never a value of a secret."""
    try:
        environment = Environment()
        catalogue = _catalogue(models_file or environment.llm_backend_models, environment)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None
    keys, url, data_dir = environment.llm_backend_api_key, environment.database_url, environment.llm_backend_data_dir
    if environment.ray_serve_enable_ha_proxy and not keys:
        _check_forwarding(environment)
    return Settings(
        catalogue=catalogue,
        data_dir=data_dir,
        database_url=SecretStr(_absolute_sqlite(url.get_secret_value())) if url else _default_database(data_dir),
        api_keys=tuple(SecretStr(key.strip()) for key in keys.get_secret_value().split(",") if key.strip())
        if keys
        else (),
        log_level=environment.log_level,
        behind_haproxy=environment.ray_serve_enable_ha_proxy,
    )


def _check_forwarding(environment: Environment) -> None:
    """Without a key only this machine is answered, and only HAProxy knows who asks: it has to say so."""
    if "option forwardfor" not in environment.ray_serve_haproxy_balance_algorithm:
        raise SettingsError(
            "RAY_SERVE_ENABLE_HA_PROXY is on without the forwarded address of config/ray.env: "
            "load that file (set -a; . config/ray.env; set +a), or set LLM_BACKEND_API_KEY"
        )


def _catalogue(path: Path, environment: Environment) -> Catalogue:
    try:
        source = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path.name}: {' '.join(str(error).split())}") from None
    catalogue = Catalogue.model_validate(source or {})
    models = {name: _resolved(name, model, environment) for name, model in catalogue.models.items()}
    upstreams = {name: _with_key(name, each, environment) for name, each in catalogue.upstreams.items()}
    return catalogue.model_copy(update={"models": models, "upstreams": upstreams})


def _resolved(name: str, model: ModelSettings, environment: Environment) -> ModelSettings:
    lora = tuple(each.model_copy(update={"file": (ROOT / each.file).resolve()}) for each in model.lora)
    copies = tuple(ROOT / each for each in model.copies)
    changes: dict[str, Any] = {"file": (ROOT / model.file).resolve(), "copies": copies, "lora": lora}
    if name == _OVERRIDDEN and environment.llama_model_file:
        changes |= {"file": environment.llama_model_file.expanduser().resolve(), "copies": ()}
    if name == _OVERRIDDEN and environment.llama_context_size:
        changes["context"] = environment.llama_context_size
    return model.model_copy(update=changes)


def _with_key(name: str, upstream: UpstreamSettings, environment: Environment) -> UpstreamSettings:
    key = os.environ.get(upstream.api_key_env) if upstream.api_key_env else None
    changes: dict[str, Any] = {"api_key": SecretStr(key.strip()) if key and key.strip() else None}
    if name == _OPENAI and environment.openai_base_url:
        changes["base_url"] = environment.openai_base_url
    return upstream.model_copy(update=changes)


def _default_database(data_dir: Path) -> SecretStr:
    return SecretStr(f"sqlite:///{data_dir.resolve()}/llm-backend.db")


def _absolute_sqlite(url: str) -> str:
    """``sqlite:///relative`` is relative to the project, wherever Ray starts its workers."""
    scheme, found, path = url.partition(":///")
    if found and scheme.startswith("sqlite") and path and not path.startswith(("/", ":")):
        return f"{scheme}:///{ROOT / path}"
    return url


def _explain(error: ValidationError) -> str:
    lines = (f"{'.'.join(map(str, item['loc'])) or 'models.yaml'}: {item['msg']}" for item in error.errors())
    return "; ".join(lines)


def secret_names(settings: Settings) -> tuple[str, ...]:
    """Variables that no process but the one that needs them should see."""
    upstreams = (each.api_key_env for each in settings.catalogue.upstreams.values())
    return ("DATABASE_URL", "LLM_BACKEND_API_KEY", *(name for name in upstreams if name))


def adopt_ray_environment() -> None:
    """Put ``ray.env`` into this process, before Ray is imported; what the operator set already stays."""
    for name, value in dotenv_values(RAY_ENV).items():
        os.environ.setdefault(name, value or "")


def forget_secrets(settings: Settings) -> None:
    """Take the secrets out of this process' environment, so that the processes it starts do not inherit them."""
    for name in secret_names(settings):
        os.environ.pop(name, None)
