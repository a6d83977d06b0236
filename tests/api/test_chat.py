from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import orjson
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from serve_app.api.app import create_app
from serve_app.api.directory import Alias, UpstreamRoute
from serve_app.api.limits import Limits
from serve_app.protocol import Delta, Done, Failed, FailureCode, Generate, Relay, Relayed, Started, ToolCallDelta, Usage
from tests.api.contract import conforms, typed
from tests.api.conversation import CHAT, DONE, HELLO, STARTED, Books, chunk
from tests.api.serving import failure, listening, make_context
from tests.fakes import FakeBackend, Step, card

ANSWER: tuple[Step, ...] = ([STARTED], [Delta(0, "Hel")], [Delta(0, "lo 😀", finish="stop")], [DONE])
CALL = ToolCallDelta(0, '{"city":"Rome"}', "call_1", "weather")
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
THEIRS = {
    "id": "theirs",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-2024",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hi", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


class House:
    """A served app with one model, under its own name and an alias, or one upstream; and its official client."""

    def __init__(self, base: str, backend: FakeBackend, store: Books) -> None:
        self.backend = backend
        self.store = store
        self.raw = httpx.AsyncClient(base_url=base)
        self.sdk = AsyncOpenAI(base_url=f"{base}/v1", api_key="sk-of-the-caller", max_retries=0)

    @property
    def asked(self) -> Any:
        return self.backend.requests[-1]

    async def stream(self, **more: Any) -> list[Any]:
        answer = await self.sdk.chat.completions.create(**({**HELLO, "stream": True} | more))
        return [chunk async for chunk in answer]

    async def whole(self, **more: Any) -> ChatCompletion:
        answer: ChatCompletion = await self.sdk.chat.completions.create(**({**HELLO} | more))
        return answer


@asynccontextmanager
async def house(*script: Step, upstream: bool = False, caller_key: bool = False) -> AsyncIterator[House]:
    backend, store = FakeBackend(*script, cards=[card("gpt-4o")]), Books()
    context = make_context(
        local={} if upstream else {"llama": backend},
        aliases={} if upstream else {"gpt-3.5-turbo": Alias("llama")},
        upstreams={"openai": UpstreamRoute(backend, caller_key)} if upstream else {},
        store=store,
        limits=Limits(silence_s=5),
    )
    async with listening(create_app(context, own_request_id=True)) as base:
        served = House(base, backend, store)
        async with served.raw, served.sdk:
            yield served


async def test_a_whole_answer_is_openais_object() -> None:
    async with house(*ANSWER) as served:
        response = await served.raw.post(CHAT, json={**HELLO, "temperature": 0, "n": None})
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        body = response.json()
        typed(ChatCompletion, body)
        conforms("CreateChatCompletionResponse", body)
        assert body["id"].startswith("chatcmpl-")
        assert (body["created"], body["model"], body["service_tier"]) == (1_700_000_000, "llama", "default")
        assert body["choices"][0]["message"]["content"] == "Hello 😀"
        assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 3
        entry = await served.store.closed()
        assert (entry.opened.route, entry.opened.served_by, entry.opened.turn) == ("chat/completions", "local", None)
        assert isinstance(served.asked, Generate)


async def test_a_stream_reads_in_the_official_client() -> None:
    async with house(*ANSWER) as served:
        chunks = await served.stream(stream_options={"include_usage": True})
        assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "Hello 😀"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage.completion_tokens == 2
        assert len({(c.id, c.created, c.model, c.system_fingerprint, c.service_tier) for c in chunks}) == 1


async def test_an_alias_is_answered_under_the_name_it_was_called_by() -> None:
    async with house(*ANSWER) as served:
        assert (await served.whole(model="gpt-3.5-turbo")).model == "gpt-3.5-turbo"
        assert served.asked.model == "llama"


async def test_choices_interleave_and_each_has_its_role_and_its_end() -> None:
    script: list[Step] = [[STARTED], [Delta(1, "b"), Delta(0, "a")], [Delta(0, "a", finish="stop")]]
    async with house(*script, [Delta(1, "b", finish="length")], [DONE]) as served:
        chunks = [c.choices[0] for c in await served.stream(n=2)]
        for index, text, finish in ((0, "aa", "stop"), (1, "bb", "length")):
            mine = [c for c in chunks if c.index == index]
            assert mine[0].delta.role == "assistant"
            assert "".join(c.delta.content or "" for c in mine) == text
            assert [c.finish_reason for c in mine if c.finish_reason] == [finish]


async def test_the_sdks_own_helper_puts_a_streamed_call_together() -> None:
    async with house([STARTED], [Delta(0, tool_calls=(CALL,), finish="tool_calls")], [DONE]) as served:
        async with served.sdk.chat.completions.stream(**HELLO, tools=[WEATHER]) as stream:
            final = await stream.get_final_completion()
        (call,) = final.choices[0].message.tool_calls or []
        assert (call.id, call.function.name, call.function.arguments) == ("call_1", "weather", '{"city":"Rome"}')
        assert final.choices[0].finish_reason == "tool_calls"


async def test_an_error_in_the_middle_raises_in_the_sdk() -> None:
    async with house([STARTED], [Delta(0, "Hel")], [Failed(FailureCode.ENGINE_LOST, "Lost.")]) as served:
        with pytest.raises(openai.APIError) as caught:
            await served.stream()
        assert caught.value.code == "engine_lost"
        assert b"[DONE]" not in (await served.raw.post(CHAT, json={**HELLO, "stream": True})).content


@pytest.mark.parametrize(
    ("failed", "error"),
    [
        (Failed(FailureCode.CONTEXT_LENGTH, "Too long.", param="messages"), openai.BadRequestError),
        (Failed(FailureCode.QUEUE_FULL, "Full."), openai.RateLimitError),
        (Failed(FailureCode.MODEL_UNAVAILABLE, "Loading."), openai.InternalServerError),
    ],
)
async def test_an_error_before_the_first_token_has_its_real_status(
    failed: Failed, error: type[openai.APIStatusError]
) -> None:
    async with house([], [failed]) as served:
        for answer in (served.stream, served.whole):
            with pytest.raises(error) as caught:
                await answer()
            assert caught.value.code == failed.code


async def test_a_client_that_hangs_up_frees_its_backend() -> None:
    async with house([STARTED], [Delta(0, "Hel")], asyncio.Event()) as served:
        async with served.raw.stream("POST", CHAT, json={**HELLO, "stream": True}) as response:
            await anext(response.aiter_bytes())
        await served.backend.closed.wait()
        assert (await served.store.closed()).status == "cancelled"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stored_answer_can_be_read_under_the_id_the_client_saw(stream: bool) -> None:
    async with house(*ANSWER) as served:
        kept: Any = {"store": True, "metadata": {"topic": "greeting"}, "safety_identifier": "ann"}
        id_ = (await served.stream(**kept))[0].id if stream else (await served.whole(**kept)).id
        found = await served.sdk.chat.completions.retrieve(id_)
        assert found.choices[0].message.content == "Hello 😀"
        assert found.choices[0].finish_reason == "stop"
        assert (found.id, found.metadata) == (id_, {"topic": "greeting"})  # type: ignore[attr-defined]
        listed = await served.sdk.chat.completions.messages.list(id_)
        assert [message.content for message in listed.data] == ["Hi"]
        assert (await served.store.closed()).opened.user == "ann"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stored_relayed_answer_can_be_read_under_the_id_the_client_saw(stream: bool) -> None:
    body: list[Step] = [chunk("Hi"), chunk(finish="stop")] if stream else [[Relayed(orjson.dumps(THEIRS))]]
    async with house([Started()], *body, [Done(Usage(1, 1))], upstream=True) as served:
        kept: Any = {"store": True, "model": "gpt-4o"}
        id_ = (await served.stream(**kept))[0].id if stream else (await served.whole(**kept)).id
        assert id_.startswith("chatcmpl-")
        found = await served.sdk.chat.completions.retrieve(id_)
        assert found.choices[0].message.content == "Hi"
        assert found.usage is not None
        assert found.usage.total_tokens == 2
        assert "store" not in orjson.loads(served.asked.body)


async def test_an_upstreams_answer_passes_untouched() -> None:
    data = orjson.dumps(THEIRS, option=orjson.OPT_INDENT_2)
    async with house([Started()], [Relayed(data)], [Done()], upstream=True) as served:
        response = await served.raw.post(CHAT, json={**HELLO, "model": "gpt-4o", "audio": {"voice": "x"}})
        assert response.content == data
        assert isinstance(served.asked, Relay)
        assert orjson.loads(served.asked.body)["audio"] == {"voice": "x"}


async def test_the_callers_own_key_travels_only_where_it_may() -> None:
    for allowed, key in ((True, "sk-of-the-caller"), (False, None)):
        async with house([Relayed(orjson.dumps(THEIRS))], [Done()], upstream=True, caller_key=allowed) as served:
            await served.whole(model="gpt-4o")
            assert served.asked.api_key == key


async def test_the_key_of_this_door_never_travels() -> None:
    backend = FakeBackend([Relayed(orjson.dumps(THEIRS))], [Done()])
    context = make_context(upstreams={"openai": UpstreamRoute(backend, True)}, keys=("sk-ours",))
    async with listening(create_app(context, own_request_id=True)) as base:
        for headers, key in (
            ({"authorization": "Bearer sk-ours"}, None),
            ({"x-api-key": "sk-ours", "authorization": "Bearer sk-theirs"}, "sk-theirs"),
        ):
            async with httpx.AsyncClient(base_url=base, headers=headers) as client:
                assert (await client.post(CHAT, json={**HELLO, "model": "gpt-4o"})).status_code == 200
            asked = backend.requests[-1]
            assert isinstance(asked, Relay)
            assert asked.api_key == key


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        (b"{", 400, None, "invalid_json"),
        (b"[]", 400, None, "invalid_type"),
        (b"{}", 400, "model", "missing_required_parameter"),
        (orjson.dumps({**HELLO, "model": "nobody"}), 404, "model", "model_not_found"),
        (orjson.dumps({**HELLO, "n": 99}), 400, "n", "integer_above_max_value"),
        (orjson.dumps({**HELLO, "audio": {}}), 400, "audio", "unsupported_parameter"),
    ],
)
async def test_a_bad_request_is_refused_in_the_envelope(body: bytes, status: int, param: str, code: str) -> None:
    async with house(*ANSWER) as served:
        response = await served.raw.post(CHAT, content=body, headers={"content-type": "application/json"})
        assert response.status_code == status
        error = failure(response)
        assert (error["param"], error["code"]) == (param, code)
        assert served.backend.requests == []
