"""What goes to an upstream and what comes back, over real connections."""

from __future__ import annotations

import asyncio
import json

import pytest

from serve_app.protocol import Done, FailureCode, Generate, Started, Usage
from tests.fault_proxy import FaultProxy, Faults
from tests.upstream.driving import KEY, QUICK, check_contract, chunks, code, collect, failure, relay, upstream
from tests.upstream_server import JSON, SSE, WHOLE, Reply, UpstreamServer, chat_events, stream


@pytest.mark.parametrize("route", ["chat/completions", "completions"])
async def test_a_stream_begins_once_goes_on_and_ends_once(server: UpstreamServer, route: str) -> None:
    async with upstream(server.port) as backend:
        events = await collect(backend, relay(route=route))
    assert check_contract(events) == Done(Usage(9, 4, 2, 1))
    assert isinstance(events[0], Started)
    assert server.calls(f"/{route}") == len(server.asked) == 1


async def test_a_whole_answer_passes_byte_for_byte(server: UpstreamServer) -> None:
    async with upstream(server.port) as backend:
        events = await collect(backend, relay(stream=False))
    assert chunks(events) == [WHOLE]
    assert check_contract(events) == Done(Usage(9, 4, 2, 1))


async def test_the_request_body_passes_byte_for_byte(server: UpstreamServer) -> None:
    body = (
        b'{ "stream" : true,\n "x":1.50, "model":"up-1", "e":"\\u00e9 \xc3\xa9", "x":2, "big":123456789012345678901 }'
    )
    async with upstream(server.port) as backend:
        await collect(backend, relay(body=body))
    assert server.asked[0].body == body
    assert server.asked[0].headers["content-type"] == "application/json"


async def test_the_callers_key_goes_instead_of_the_servers_own(server: UpstreamServer) -> None:
    async with upstream(server.port) as backend:
        await collect(backend, relay(api_key="sk-callers"))
        await collect(backend, relay())
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer sk-callers", f"Bearer {KEY}"]


async def test_without_a_key_none_is_taken_from_the_environment(
    server: UpstreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "of-the-environment")
    async with upstream(server.port, api_key=None) as backend:
        check_contract(await collect(backend, relay()))
    assert "authorization" not in server.asked[0].headers
    assert "of-the-environment" not in str(server.asked[0].headers)


async def test_a_cookie_of_one_answer_is_not_sent_with_the_next_request(server: UpstreamServer) -> None:
    server.script.append(Reply(headers=SSE | {"set-cookie": "session=1; Path=/"}, pieces=chat_events("a")))
    async with upstream(server.port) as backend:
        await collect(backend, relay())
        await collect(backend, relay())
    assert "cookie" not in server.asked[1].headers


async def test_answers_in_single_bytes_are_the_same_answers(server: UpstreamServer) -> None:
    text = "Zürich 🎉👩‍👩‍👧‍👦 مرحبا " * 700
    server.script.extend([stream(text), stream(text)])
    async with FaultProxy(server.port, Faults(piece=1)) as proxy, upstream(proxy.port) as backend:
        slow = await collect(backend, relay())
    async with upstream(server.port) as backend:
        fast = await collect(backend, relay())
    assert slow == fast
    assert json.loads(chunks(slow)[1])["choices"][0]["delta"]["content"] == text
    assert len(chunks(slow)[1]) > 30_000


async def test_a_finished_answers_connection_serves_the_next_request(server: UpstreamServer) -> None:
    async with FaultProxy(server.port) as proxy, upstream(proxy.port) as backend:
        for stream_it in (True, False, True):
            await collect(backend, relay(stream=stream_it))
        assert proxy.connections == 1


async def test_a_waiting_stream_says_that_it_is_alive(server: UpstreamServer) -> None:
    server.script.append(Reply(headers=SSE, hold=True))
    async with upstream(server.port, deadlines=QUICK) as backend:
        batches = [events async for events in backend.generate(relay())]
    assert batches[:3] == [[], [], []]
    assert failure([event for events in batches for event in events]).code is FailureCode.UPSTREAM_TIMEOUT


async def test_json_where_a_stream_was_asked_for_is_an_error_or_a_protocol_failure(server: UpstreamServer) -> None:
    server.script.append(Reply(headers=JSON, pieces=(b'{"error":{"message":"overloaded","code":"busy"}}',)))
    server.script.append(Reply(headers=JSON, pieces=(WHOLE,)))
    async with upstream(server.port) as backend:
        refused = failure(await collect(backend, relay()))
        assert code(await collect(backend, relay())) is FailureCode.UPSTREAM_PROTOCOL
    assert (refused.code, refused.message, refused.detail) == (FailureCode.UPSTREAM_ERROR, "overloaded", "busy")


async def test_a_compressed_answer_is_refused_unread(server: UpstreamServer) -> None:
    server.script.append(Reply(headers=SSE | {"content-encoding": "gzip"}, pieces=(b"\x1f\x8b",)))
    async with upstream(server.port) as backend:
        assert code(await collect(backend, relay())) is FailureCode.UPSTREAM_PROTOCOL
    assert server.asked[0].headers["accept-encoding"] == "identity"


async def test_a_request_for_a_local_model_is_an_internal_error(server: UpstreamServer) -> None:
    async with upstream(server.port) as backend:
        events = [event async for batch in backend.generate(Generate("r", "t", "m", ())) for event in batch]
    assert code(events) is FailureCode.INTERNAL
    assert server.asked == []


async def test_a_reader_that_pauses_loses_nothing_and_holds_the_upstream_back(server: UpstreamServer) -> None:
    texts = [f"{i:05}" + "x" * 20_000 for i in range(400)]
    server.script.append(stream(*texts))
    async with upstream(server.port, deadlines=QUICK) as backend:
        answer = backend.generate(relay())
        events = await anext(answer)
        while not events:
            events = await anext(answer)
        await asyncio.sleep(1.5 * QUICK.idle_s)  # longer than the upstream may be silent: the pause is not its fault
        held = await anext(answer)
        assert sum(len(data) for data in chunks(held)) < 3 * 1024 * 1024
        events += held + [event async for batch in answer for event in batch]
    assert isinstance(check_contract(events), Done)
    told = "".join(json.loads(data)["choices"][0]["delta"].get("content", "") for data in chunks(events)[:-1])
    assert told == "".join(texts)
