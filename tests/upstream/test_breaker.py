"""An upstream that keeps failing is left alone, and found again."""

from __future__ import annotations

from serve_app.protocol import Done, FailureCode
from serve_app.upstream.breaker import Breaker
from tests.upstream.driving import collect, failure, relay, upstream
from tests.upstream_server import UpstreamServer, error


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def broken() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(clock, threshold=2, cooldown_s=10.0)
    breaker.failed()
    assert breaker.admit() == 0.0
    breaker.failed()
    return breaker, clock


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(Clock(), threshold=2)
    for _ in range(3):
        breaker.failed()
        breaker.succeeded()
    assert breaker.admit() == 0.0


def test_while_open_it_says_how_long() -> None:
    breaker, clock = broken()
    clock.now += 4
    assert breaker.admit() == 6.0


def test_after_the_cool_down_one_caller_probes_and_the_others_wait() -> None:
    breaker, clock = broken()
    clock.now += 10
    assert [breaker.admit(), breaker.admit()] == [0.0, 10.0]
    breaker.succeeded()
    assert breaker.admit() == 0.0


def test_a_failed_probe_starts_the_cool_down_anew_and_a_lost_one_does_not_block_the_next() -> None:
    breaker, clock = broken()
    clock.now += 10
    breaker.admit()
    clock.now += 3
    breaker.failed()
    assert breaker.admit() == 10.0
    clock.now += 10
    assert breaker.admit() == 0.0  # this probe is never reported
    clock.now += 10
    assert breaker.admit() == 0.0


async def test_an_open_circuit_refuses_at_once_without_a_call_until_a_probe_succeeds(server: UpstreamServer) -> None:
    clock = Clock()
    server.script.extend([error(503)] * 5)
    async with upstream(server.port, clock=clock) as backend:
        await collect(backend, relay())
        await collect(backend, relay())
        assert len(server.asked) == 5
        failed = failure(await collect(backend, relay()))
        assert (failed.code, failed.retry_after_s) == (FailureCode.UPSTREAM_UNREACHABLE, 10.0)
        assert len(server.asked) == 5
        clock.now += 10
        assert isinstance((await collect(backend, relay()))[-1], Done)
        assert isinstance((await collect(backend, relay()))[-1], Done)
    assert len(server.asked) == 7


async def test_refusals_of_the_request_do_not_open_the_circuit(server: UpstreamServer) -> None:
    server.script.extend([error(status) for status in (400, 401, 404, 429) * 3])
    async with upstream(server.port) as backend:
        while server.script:
            await collect(backend, relay())
        assert isinstance((await collect(backend, relay()))[-1], Done)
