from __future__ import annotations

import asyncio
import logging

import pytest

from serve_app.api.directory import Alias, Directory, UpstreamRoute
from serve_app.errors import RequestError
from serve_app.protocol import Backend, FailureCode
from tests.fakes import FakeBackend, card


def backend(*models: str) -> FakeBackend:
    return FakeBackend(cards=[card(model) for model in models])


def hanging() -> FakeBackend:
    hung = backend("never-told")
    hung.models_wait = asyncio.Event()
    return hung


class Raising(FakeBackend):
    async def models(self) -> tuple[()]:
        raise ConnectionError("secret address")


def directory(
    local: dict[str, Backend] | None = None,
    aliases: dict[str, Alias] | None = None,
    upstreams: dict[str, Backend] | None = None,
) -> Directory:
    routes = {name: UpstreamRoute(one, caller_key=name == "openai") for name, one in (upstreams or {}).items()}
    return Directory(local or {}, aliases or {}, routes, list_timeout_s=0.05)


async def ids(found: Directory) -> list[str]:
    return [one.id for one in await found.list()]


async def refused(found: Directory, model: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await found.resolve(model)
    return caught.value


async def test_a_local_model_answers_to_its_own_name_and_to_its_aliases() -> None:
    llama = backend("llama")
    found = directory({"llama": llama}, {"gpt-4": Alias("llama")})
    own, other = await found.resolve("llama"), await found.resolve("gpt-4")
    assert (own.id, own.name, own.backend, own.served_by) == ("llama", "llama", llama, "local")
    assert (other.id, other.name, other.backend, other.caller_key) == ("gpt-4", "llama", llama, False)


async def test_a_local_name_wins_over_an_alias_and_an_alias_over_an_upstream() -> None:
    local = {"llama": backend("llama"), "gpt-4": backend("gpt-4")}
    upstream = backend("llama", "gpt-4", "tiny", "gpt-5")
    found = directory(local, {"gpt-4": Alias("llama"), "tiny": Alias("llama")}, {"openai": upstream})
    answering = {model: (await found.resolve(model)).backend for model in ("llama", "gpt-4", "tiny", "gpt-5")}
    llama, gpt = local.values()
    assert answering == {"llama": llama, "gpt-4": gpt, "tiny": llama, "gpt-5": upstream}
    assert await ids(found) == ["llama", "gpt-4", "tiny", "gpt-5"]


async def test_an_alias_that_stands_in_for_an_upstream_gives_way_to_one() -> None:
    llama, upstream = backend("llama"), backend("gpt-3.5-turbo")
    alias = {"gpt-3.5-turbo": Alias("llama", only_without_upstream=True)}
    alone = directory({"llama": llama}, alias)
    beside = directory({"llama": llama}, alias, {"openai": upstream})
    assert (await alone.resolve("gpt-3.5-turbo")).backend is llama
    assert (await beside.resolve("gpt-3.5-turbo")).backend is upstream
    assert await ids(alone) == await ids(beside) == ["llama", "gpt-3.5-turbo"]


async def test_the_upstream_that_lists_a_model_answers_for_it() -> None:
    first, second = backend("gpt-5"), backend("gpt-5", "claude")
    found = directory(upstreams={"openai": first, "other": second})
    gpt, claude = await found.resolve("gpt-5"), await found.resolve("claude")
    assert (gpt.backend, gpt.caller_key, gpt.served_by) == (first, True, "upstream")
    assert (claude.backend, claude.caller_key) == (second, False)


@pytest.mark.parametrize("silent", [backend(), hanging(), Raising()], ids=["empty", "hanging", "raising"])
async def test_an_upstream_that_cannot_list_its_models_gets_what_nobody_else_knows(silent: FakeBackend) -> None:
    found = directory({"llama": backend("llama")}, upstreams={"known": backend("gpt-5"), "silent": silent})
    assert (await found.resolve("mystery")).backend is silent
    assert await ids(found) == ["llama", "gpt-5"]


async def test_an_unknown_model_is_refused_in_openai_s_words() -> None:
    for found in (directory({"llama": backend("llama")}), directory(upstreams={"openai": backend("gpt-5")})):
        error = await refused(found, "mystery")
        assert (error.failed.code, error.failed.param) == (FailureCode.MODEL_NOT_FOUND, "model")
        assert error.failed.message == "The model `mystery` does not exist or you do not have access to it."


async def test_a_very_long_name_is_not_repeated_in_full() -> None:
    assert len((await refused(directory(), "x" * 100_000)).failed.message) < 250


async def test_a_model_that_is_not_loaded_is_not_listed_nor_are_its_aliases() -> None:
    found = directory({"llama": backend("llama"), "broken": backend()}, {"a": Alias("broken"), "b": Alias("llama")})
    assert await ids(found) == ["llama", "b"]
    assert (await found.resolve("broken")).name == "broken"


async def test_a_hanging_backend_does_not_hold_up_the_list(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    found = directory({"hung": hanging(), "llama": backend("llama")}, upstreams={"silent": hanging()})
    async with asyncio.timeout(1):
        assert await ids(found) == ["llama"]
    assert "did not list" in caplog.text


async def test_the_list_is_stable_and_names_no_model_twice() -> None:
    found = directory(
        {"b": backend("b"), "a": backend("a")},
        {"z": Alias("a"), "y": Alias("b")},
        {"one": backend("a", "up"), "two": backend("up", "z", "more")},
    )
    assert await ids(found) == ["b", "a", "z", "y", "up", "more"]
    assert await found.list() == await found.list()


def test_an_alias_for_nothing_is_refused_at_the_start_by_name() -> None:
    with pytest.raises(ValueError, match="'gpt-4' names 'missing'"):
        directory({"llama": backend("llama")}, {"gpt-4": Alias("missing")})
