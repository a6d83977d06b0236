"""What an upstream refuses is told to the right person in the right words, and no key is ever told."""

from __future__ import annotations

import json
import logging

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.protocol import Failed, FailureCode
from serve_app.upstream.client import OpenAIUpstream
from serve_app.upstream.complaints import clean, read, read_body
from serve_app.upstream.failures import retry_after_s
from tests.fault_proxy import FaultProxy, Faults
from tests.upstream.driving import KEY, QUICK, collect, failure, relay, upstream
from tests.upstream_server import JSON, SSE, Reply, UpstreamServer, chat_events, error, event

CALLERS = "sk-callers-9876543210"
OWN_WORDS = b'{"error":{"message":"Too\\n long","type":"invalid_request_error","param":"messages[0]","code":"%s"}}'


async def refused(server: UpstreamServer, reply: Reply, **request: object) -> Failed:
    server.script.extend([reply] * 3)
    async with upstream(server.port) as backend:
        return failure(await collect(backend, relay(**request)))


@pytest.mark.parametrize("status", [400, 422])
async def test_a_request_the_upstream_finds_wrong_is_refused_in_its_words(server: UpstreamServer, status: int) -> None:
    failed = await refused(server, Reply(status, JSON, (OWN_WORDS % b"context_length_exceeded",)))
    expected = Failed(FailureCode.UPSTREAM_REFUSED, "Too long", "messages[0]", detail="context_length_exceeded")
    assert failed == expected
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_the_servers_own_refused_key_is_not_the_callers_affair(
    server: UpstreamServer, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    failed = await refused(server, error(status, "invalid_api_key", f"Incorrect API key provided: {KEY}"))
    assert failed == Failed(FailureCode.UPSTREAM_OWN_KEY, "The upstream refused this server's own credentials.")
    assert [record.levelname for record in caplog.records if record.name.startswith("serve_app")] == ["WARNING"]


@pytest.mark.parametrize("status", [401, 403])
async def test_a_callers_refused_key_is_the_callers_affair(server: UpstreamServer, status: int) -> None:
    failed = await refused(server, error(status, "invalid_api_key"), api_key=CALLERS)
    assert failed.code is FailureCode.UPSTREAM_CALLER_KEY


@pytest.mark.parametrize("key", ["sk-é", "sk-a\r\nX-Evil: 1", "sk a", "sk-\x00"])
async def test_a_key_that_is_no_header_never_leaves(server: UpstreamServer, key: str) -> None:
    async with upstream(server.port) as backend:
        failed = failure(await collect(backend, relay(api_key=key)))
    assert failed.code is FailureCode.UPSTREAM_CALLER_KEY
    assert server.asked == []


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (302, FailureCode.UPSTREAM_PROTOCOL),
        (204, FailureCode.UPSTREAM_PROTOCOL),
        (402, FailureCode.UPSTREAM_QUOTA),
        (404, FailureCode.UPSTREAM_NOT_FOUND),
        (418, FailureCode.UPSTREAM_PROTOCOL),
    ],
)
async def test_every_other_status_has_its_meaning_and_no_repeat(
    server: UpstreamServer, status: int, expected: FailureCode
) -> None:
    failed = await refused(server, Reply(status, {"location": server.url + "/elsewhere"}))
    assert failed.code is expected
    assert len(server.asked) == 1


async def test_a_rate_limit_says_when_to_come_back(server: UpstreamServer) -> None:
    failed = await refused(server, error(429, "rate_limit_exceeded", retry_after="17"))
    assert (failed.code, failed.retry_after_s) == (FailureCode.UPSTREAM_RATE_LIMIT, 17.0)


async def test_the_waits_between_attempts_grow_or_are_what_was_asked_for(server: UpstreamServer) -> None:
    waits: list[float] = []

    async def note(wait_s: float) -> None:
        waits.append(wait_s)

    server.script.extend([error(503), error(503), error(503), error(503, retry_after="2"), error(503, retry_after="4")])
    async with upstream(server.port, sleep=note, jitter=lambda: 1.0) as backend:
        await collect(backend, relay())
        await collect(backend, relay())
    assert waits == [0.5, 1.0, 2.0]  # 2 + 4 seconds are more than one request may wait
    assert len(server.asked) == 5


async def test_a_stalled_error_body_does_not_hide_the_status(server: UpstreamServer) -> None:
    server.script.append(Reply(400, JSON, (b'{"error"',), hold=True))
    async with upstream(server.port) as backend:
        assert failure(await collect(backend, relay())).code is FailureCode.UPSTREAM_REFUSED


async def test_no_key_is_ever_in_an_event_or_a_log(server: UpstreamServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f"Your keys {KEY} and {CALLERS}, {KEY[:6]}***{KEY[-4:]}, Bearer {KEY}"
    replies = [error(status, "some_code", echo) for status in (400, 401, 403, 404, 422, 429, 500, 500, 500)]
    replies.append(Reply(headers=SSE, pieces=(*chat_events("a")[:1], event({"error": {"message": echo, "code": KEY}}))))
    replies.append(Reply(headers=JSON, pieces=(json.dumps({"error": echo}).encode(),)))
    server.script.extend(replies)
    told = []
    async with upstream(server.port) as backend, FaultProxy(server.port, Faults(stall_after=0)) as proxy:
        while server.script:
            told += await collect(backend, relay(api_key=CALLERS if len(server.script) % 2 else None))
        await backend.models()
        async with upstream(proxy.port, deadlines=QUICK) as stalled:
            told += await collect(stalled, relay())
    everything = str(told) + caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert "Your keys [redacted] and [redacted], [redacted], " in everything
    for secret in (KEY, CALLERS, KEY[3:], KEY[-4:]):
        assert secret not in everything


def test_a_key_with_line_breaks_is_refused_without_being_told() -> None:
    with pytest.raises(ValueError, match="upstream up holds") as refusal:
        OpenAIUpstream("up", "sk-1\n")
    assert "sk-1" not in str(refusal.value)


@given(st.text(max_size=2000), st.lists(st.text(min_size=8, max_size=20), max_size=2))
def test_a_cleaned_message_is_one_short_printable_line(text: str, keys: list[str]) -> None:
    cleaned = clean(text, keys)
    assert len(cleaned) <= 500
    assert cleaned.isprintable()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"plain"}', "plain"),
        (b'{"detail":"plain"}', "plain"),
        (b'{"object":"error","message":"plain","code":400}', "plain"),
        (b'{"detail":[{"loc":[]}]}', ""),
        (b"<html>", ""),
        (b"", ""),
    ],
)
def test_errors_in_other_shapes_are_read_as_far_as_they_go(body: bytes, message: str) -> None:
    assert read_body(body, ()).message == message


def test_names_in_an_error_are_names_or_nothing() -> None:
    complaint = read({"message": 3, "code": "two words", "type": ["x"], "param": "a b"}, ())
    assert (complaint.message, complaint.code, complaint.type, complaint.param) == ("", None, None, None)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "3", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:10 GMT"}, 0.0),
    ],
)
def test_the_wait_an_upstream_asks_for_is_read_in_all_its_forms(headers: dict[str, str], expected: float) -> None:
    assert retry_after_s(httpx2.Headers(headers), now=lambda: 60.0) == expected
