from __future__ import annotations

import asyncio

import openai.types
import pytest
from openai import AsyncOpenAI
from openai import NotFoundError as SdkNotFoundError

from serve_app.api.app import create_app
from serve_app.api.context import Context
from serve_app.api.directory import Alias
from serve_app.api.limits import Limits
from tests.api.serving import KEY, failure, listening, make_context, serving, strictly
from tests.fakes import FakeBackend, MemoryStore, card

EXTRAS = frozenset({"context_length", "max_model_len"})


def two_models(**others: object) -> Context:
    local = {"org/llama": FakeBackend(cards=[card("org/llama", 4096)]), "plain": FakeBackend(cards=[card("plain")])}
    return make_context(local=local, aliases={"gpt-4": Alias("org/llama")}, **others)


async def test_the_list_is_openai_s_shape_with_the_context_where_it_is_known() -> None:
    async with serving(two_models()) as client:
        body = (await client.get("/v1/models")).json()
    assert set(body) == {"object", "data"}
    assert [strictly(openai.types.Model, model, extras=EXTRAS).id for model in body["data"]] == [
        "org/llama",
        "plain",
        "gpt-4",
    ]
    assert body["data"][0]["context_length"] == body["data"][0]["max_model_len"] == 4096
    assert set(body["data"][1]) == {"id", "object", "created", "owned_by"}


async def test_one_model_is_found_under_every_listed_id() -> None:
    async with serving(two_models()) as client:
        for listed in (await client.get("/v1/models")).json()["data"]:
            assert (await client.get(f"/v1/models/{listed['id']}")).json() == listed


async def test_an_unknown_model_is_not_found() -> None:
    async with serving(two_models()) as client:
        response = await client.get("/v1/models/none/such")
    assert (response.status_code, failure(response)["code"]) == (404, "model_not_found")


async def test_the_sdk_lists_and_retrieves_models_with_slashes_over_a_real_connection() -> None:
    gate = create_app(two_models(keys=(KEY,)), own_request_id=True)
    async with listening(gate) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as sdk:
        assert [model.id async for model in sdk.models.list()] == ["org/llama", "plain", "gpt-4"]
        assert (await sdk.models.retrieve("org/llama")).id == "org/llama"
        with pytest.raises(SdkNotFoundError) as caught:
            await sdk.models.retrieve("none")
    assert (caught.value.code, caught.value.param, caught.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )
    assert caught.value.request_id


async def test_health_answers_as_long_as_the_process_lives() -> None:
    async with serving(make_context(store=MemoryStore(), keys=(KEY,)), peer=("8.8.8.8", 1)) as client:
        response = await client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_ready_needs_a_model_and_a_store_and_tells_nothing_else() -> None:
    store = MemoryStore()
    context = two_models(store=store, keys=(KEY,), limits=Limits(store_timeout_s=0.05))
    async with serving(context) as client:
        ready = await client.get("/ready")
        store.down = True
        down = await client.get("/ready")
        store.hold = asyncio.Event()
        hung = await client.get("/ready")
        store.hold = None
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "models": True, "store": True})
    for response in (down, hung):
        assert response.status_code == 503
        assert response.json() == {"status": "unavailable", "models": True, "store": False}


async def test_ready_is_false_without_any_model() -> None:
    async with serving(make_context(local={"llama": FakeBackend()})) as client:
        response = await client.get("/ready")
    assert (response.status_code, response.json()["models"]) == (503, False)
