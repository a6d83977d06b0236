"""What an operator says is what the graph gets; what is wrong is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values

from config import settings
from config.settings import RAY_ENV, ROOT, SettingsError, load

NAMES = [
    "LLAMA_MODEL_FILE",
    "LLAMA_CONTEXT_SIZE",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "DATABASE_URL",
    "LLM_BACKEND_API_KEY",
    "LLM_BACKEND_MODELS",
    "LOG_LEVEL",
    "RAY_SERVE_ENABLE_HA_PROXY",
    "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM",
]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def models_file(folder: Path, content: object) -> Path:
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_without_any_setting_the_default_model_is_served_with_sqlite_and_no_upstream() -> None:
    told = load()
    assert told.catalogue.models["llama"].file == ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert told.catalogue.models["llama"].context == 4096
    assert told.database_url.get_secret_value() == f"sqlite:///{ROOT}/data/llm-backend.db"
    assert told.upstreams == {}
    assert told.api_keys == ()
    assert told.log_level == "INFO"


def test_the_old_services_variables_keep_their_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_MODEL_FILE", "/models/mine.gguf")
    monkeypatch.setenv("LLAMA_CONTEXT_SIZE", "8192")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-cloud")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    told = load()
    assert told.catalogue.models["llama"].file == Path("/models/mine.gguf")
    assert told.catalogue.models["llama"].context == 8192
    key = told.upstreams["openai"].api_key
    assert key is not None
    assert key.get_secret_value() == "sk-cloud"
    assert told.log_level == "DEBUG"


def test_empty_variables_count_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")
    assert load().upstreams == {}


def test_keys_are_separated_by_commas_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_BACKEND_API_KEY", "first, second,")
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@host/name")
    told = load()
    assert [key.get_secret_value() for key in told.api_keys] == ["first", "second"]
    assert not any(secret in repr(told) for secret in ("first", "second", "hunter2"))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"models": {"a": {}}}, "models.a.file"),
        ({"models": {"a": {"file": "x", "contxt": 5}}}, "models.a.contxt"),
        ({"models": {"a": {"file": "x", "context": 5}}}, "models.a.context"),
        ({"models": {"a": {"file": "x", "slots": "many"}}}, "models.a.slots"),
        ({"models": {"a": {"file": "x", "gpu_layers": -1}}}, "models.a"),
        ({"models": {"a": {"file": "x", "num_gpus": 1}}}, "models.a"),
        ({"models": {"a": {"file": "x", "replicas": {"min": 3, "max": 2}}}}, "models.a.replicas"),
        ({"models": {"a": {"file": "x", "pooling": "mean"}}}, "models.a"),
        ({"models": {"a": {"file": "x", "kind": "embedding", "pooling": "most"}}}, "models.a.pooling"),
        ({"models": {"a": {"file": "x", "kind": "embedding", "dimensions": [0]}}}, "models.a.dimensions.0"),
        ({"models": {"a": {"file": "x", "cache_type_k": "q3_0"}}}, "models.a.cache_type_k"),
        ({"models": {"a": {"file": "x", "lora": [{"scale": 1}]}}}, "models.a.lora.0.file"),
        ({"models": {"a b": {"file": "x"}}}, "models.a b"),
        ({"aliases": {"gpt-4": {"model": "nobody"}}}, "aliases.gpt-4.model"),
        ({"modles": {}}, "modles"),
        ("text", "models.yaml"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, content: object, named: str) -> None:
    with pytest.raises(SettingsError, match=named.replace(".", r"\.")):
        load(models_file(tmp_path, content))


def test_an_upstream_is_on_with_its_key_or_when_it_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upstreams = {
        "keyed": {"api_key_env": "SOME_KEY"},
        "without": {"api_key_env": "OTHER_KEY"},
        "open": {"base_url": "http://localhost:9/v1"},
        "callers": {"api_key_env": "OTHER_KEY", "caller_key": True},
    }
    monkeypatch.setenv("SOME_KEY", "sk-some")
    assert set(load(models_file(tmp_path, {"upstreams": upstreams})).upstreams) == {"keyed", "open", "callers"}


def test_haproxy_without_the_forwarded_address_is_refused_unless_there_is_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    with pytest.raises(SettingsError, match=r"config/ray\.env"):
        load()
    monkeypatch.setenv("LLM_BACKEND_API_KEY", "key")
    assert load().behind_haproxy
    monkeypatch.delenv("LLM_BACKEND_API_KEY")
    for name, value in dotenv_values(RAY_ENV).items():
        monkeypatch.setenv(name, value or "")
    assert load().behind_haproxy


def test_secrets_leave_the_environment_of_what_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("OPENAI_API_KEY", "LLM_BACKEND_API_KEY", "DATABASE_URL")
    for name in secrets:
        monkeypatch.setenv(name, "sqlite:///x.db")
    settings.forget_secrets(load())
    assert not [name for name in secrets if name in os.environ]
