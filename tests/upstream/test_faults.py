"""Every fault, before and after the first event, streamed and not: one failure, in time, with exact calls."""

from __future__ import annotations

import time

import pytest

from serve_app.protocol import Done, FailureCode, Started
from tests.fault_proxy import FaultProxy, Faults
from tests.upstream.driving import QUICK, check_contract, chunks, code, collect, failure, relay, upstream
from tests.upstream_server import JSON, SSE, WHOLE, Reply, UpstreamServer, chat_events, error, event

SLACK_S = 1.0
FIRST = len(b"".join(chat_events("Hel", "lo")[:1]))
BEFORE = {
    "429": (error(429, "rate_limit_exceeded"), FailureCode.UPSTREAM_RATE_LIMIT, 1),
    "429 that says when": (error(429, "rate_limit_exceeded", retry_after="1"), FailureCode.UPSTREAM_RATE_LIMIT, 2),
    "429 that says late": (error(429, "rate_limit_exceeded", retry_after="30"), FailureCode.UPSTREAM_RATE_LIMIT, 1),
    "429 quota": (error(429, "insufficient_quota", retry_after="1"), FailureCode.UPSTREAM_QUOTA, 1),
    "429 billing": (error(429, "billing_hard_limit_reached"), FailureCode.UPSTREAM_QUOTA, 1),
    "500": (error(500), FailureCode.UPSTREAM_ERROR, 3),
    "503": (error(503), FailureCode.UPSTREAM_ERROR, 3),
    "503 that says late": (error(503, retry_after="30"), FailureCode.UPSTREAM_ERROR, 1),
    "408": (error(408), FailureCode.UPSTREAM_ERROR, 3),
    "409": (error(409), FailureCode.UPSTREAM_ERROR, 3),
}


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("fault", BEFORE)
async def test_a_refusal_is_repeated_as_often_as_its_kind_allows(
    server: UpstreamServer, fault: str, streamed: bool
) -> None:
    reply, expected, calls = BEFORE[fault]
    server.script.extend([reply] * 4)
    async with upstream(server.port) as backend:
        events = await collect(backend, relay(stream=streamed))
    assert len(events) == 1
    assert code(events) is expected
    assert server.calls("/chat/completions") == calls


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("fault", ["429 that says when", "500", "503", "409"])
async def test_a_passing_refusal_is_never_seen(server: UpstreamServer, fault: str, streamed: bool) -> None:
    server.script.append(BEFORE[fault][0])
    async with upstream(server.port) as backend:
        assert isinstance(check_contract(await collect(backend, relay(stream=streamed))), Done)
    assert server.calls("/chat/completions") == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rate_limit_exceeded", FailureCode.UPSTREAM_ERROR),
        ("insufficient_quota", FailureCode.UPSTREAM_QUOTA),
        ("server_error", FailureCode.UPSTREAM_ERROR),
    ],
)
async def test_an_error_after_the_first_event_is_told_and_never_repeated(
    server: UpstreamServer, name: str, expected: FailureCode
) -> None:
    broken = event({"error": {"message": "Sorry\nabout that", "type": "t", "code": name}})
    server.script.append(Reply(headers=SSE, pieces=(*chat_events("Hel")[:2], broken)))
    async with upstream(server.port) as backend:
        events = await collect(backend, relay())
    assert code(events) is expected
    assert len(chunks(events)) == 2
    assert expected is FailureCode.UPSTREAM_QUOTA or failure(events).message == "Sorry about that"
    assert server.calls("/chat/completions") == 1


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
async def test_a_reset_before_the_answer_is_tried_three_times(server: UpstreamServer, streamed: bool) -> None:
    async with FaultProxy(server.port, Faults(reset_after=0)) as proxy, upstream(proxy.port) as backend:
        events = await collect(backend, relay(stream=streamed))
        assert proxy.connections == 3
    assert code(events) is FailureCode.UPSTREAM_UNREACHABLE
    assert server.calls("/chat/completions") == 3


async def test_nobody_listening_is_unreachable(unused_tcp_port: int) -> None:
    async with upstream(unused_tcp_port) as backend:
        assert code(await collect(backend, relay())) is FailureCode.UPSTREAM_UNREACHABLE


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("fault", ["reset_after", "truncate_after"])
async def test_a_connection_that_breaks_inside_an_answer_is_a_truncation(
    server: UpstreamServer, fault: str, streamed: bool
) -> None:
    head = len(b"HTTP/1.1 200 OK\r\ndate: Sun, 01 Jan 2023 00:00:00 GMT\r\n") + 200
    async with (
        FaultProxy(server.port, Faults(**{fault: head + (FIRST if streamed else 100)})) as proxy,
        upstream(proxy.port, deadlines=QUICK) as backend,
    ):
        events = await collect(backend, relay(stream=streamed))
    assert isinstance(events[0], Started)
    assert code(events) is FailureCode.UPSTREAM_TRUNCATED
    assert server.calls("/chat/completions") == 1


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("after_first", [False, True], ids=["before", "after"])
async def test_a_stall_ends_at_its_deadline_and_closes_the_connection(
    server: UpstreamServer, streamed: bool, after_first: bool
) -> None:
    whole = Reply(headers=JSON, pieces=(WHOLE[:50],) if after_first else (), hold=True)
    server.script.append(
        Reply(headers=SSE, pieces=chat_events("Hel")[: 2 * after_first], hold=True) if streamed else whole
    )
    async with upstream(server.port, deadlines=QUICK) as backend:
        began = time.monotonic()
        events = await collect(backend, relay(stream=streamed))
        assert QUICK.first_byte_s <= time.monotonic() - began < QUICK.first_byte_s + SLACK_S
        await server.client_left.wait()
    assert code(events) is FailureCode.UPSTREAM_TIMEOUT
    assert ("went silent" if after_first else "sent nothing") in failure(events).message
    assert server.calls("/chat/completions") == 1


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
async def test_a_silent_listener_ends_at_the_deadline(server: UpstreamServer, streamed: bool) -> None:
    async with (
        FaultProxy(server.port, Faults(stall_after=0)) as proxy,
        upstream(proxy.port, deadlines=QUICK) as backend,
    ):
        assert code(await collect(backend, relay(stream=streamed))) is FailureCode.UPSTREAM_TIMEOUT
        await proxy.client_left.wait()


async def test_comments_do_not_keep_a_silent_stream_alive(server: UpstreamServer) -> None:
    server.script.append(Reply(headers=SSE, pieces=(*chat_events("Hel")[:2], *[b": ping\n\n"] * 100), hold=True))
    async with (
        FaultProxy(server.port, Faults(piece=8, rate=400)) as proxy,
        upstream(proxy.port, deadlines=QUICK) as backend,
    ):
        assert "sent nothing" in failure(await collect(backend, relay())).message


async def test_the_total_time_bounds_a_stream_that_never_falls_silent(server: UpstreamServer) -> None:
    server.script.append(Reply(headers=SSE, pieces=chat_events(*["word"] * 1000)))
    async with FaultProxy(server.port, Faults(piece=512, rate=10_000)) as proxy, upstream(proxy.port) as backend:
        began = time.monotonic()
        events = await collect(backend, relay(timeout_s=0.4))
        assert 0.4 <= time.monotonic() - began < 0.4 + SLACK_S
    assert code(events) is FailureCode.UPSTREAM_TIMEOUT
    assert "0.4 s" in failure(events).message
    assert len(chunks(events)) > 3


async def test_every_sampled_cut_of_a_streams_connection_ends_in_exactly_one_failure(server: UpstreamServer) -> None:
    recorded = sum(map(len, chat_events("Hel", "lo")))
    async with FaultProxy(server.port) as proxy:
        for cut in range(1, recorded, 89):
            proxy.faults = Faults(truncate_after=cut) if cut % 2 else Faults(reset_after=cut)
            async with upstream(proxy.port, deadlines=QUICK) as backend:
                assert code(await collect(backend, relay())) in ("upstream_truncated", "upstream_unreachable")


async def test_more_requests_than_connections_are_asked_to_slow_down(server: UpstreamServer) -> None:
    server.script.append(Reply(headers=SSE, pieces=chat_events("Hel")[:1], hold=True))
    async with upstream(server.port, deadlines=QUICK, max_connections=1) as backend:
        answer = backend.generate(relay())
        while not await anext(answer):
            pass
        assert code(await collect(backend, relay())) is FailureCode.QUEUE_FULL
        await answer.aclose()
        assert isinstance((await collect(backend, relay()))[-1], Done)
