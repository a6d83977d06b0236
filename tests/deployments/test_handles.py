"""Ray's exceptions end at the handle: a stream gets its one terminal event, a store call its StoreError."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from deployments.handles import RemoteBackend, remote_store
from serve_app.protocol import (
    CursorNotFound,
    Delta,
    Done,
    Event,
    Failed,
    FailureCode,
    Generate,
    Started,
    StoreError,
    Text,
)

REQUEST = Generate("request", "tenant", "llama", (Text("Hi"),))
GOOD: list[list[Event]] = [[], [Started(3)], [Delta(0, "a"), Delta(0, "b", finish="stop")], [Done()]]


class Stream:
    """What a handle's generator method returns: scripted event lists, then perhaps an exception."""

    def __init__(self, lists: list[list[Event]], error: Exception | None) -> None:
        self.cancelled = False
        self._lists = lists
        self._error = error

    async def __aiter__(self) -> AsyncIterator[list[Event]]:
        for events in self._lists:
            yield events
        if self._error:
            raise self._error

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A deployment handle whose calls are scripted, one stream after another."""

    def __init__(self, *streams: Stream) -> None:
        self.streams = list(streams)
        self.n_calls = 0

    def options(self, **_: object) -> Handle:
        return self

    @property
    def generate(self) -> Handle:
        return self

    def remote(self, *_: object) -> Stream:
        self.n_calls += 1
        return self.streams[self.n_calls - 1]


async def events_of(handle: Handle) -> list[Event]:
    return [event async for events in RemoteBackend(handle).generate(REQUEST) for event in events]


async def test_events_pass_through_as_they_came() -> None:
    handle = Handle(Stream(GOOD, None))
    assert [events async for events in RemoteBackend(handle).generate(REQUEST)] == GOOD
    assert handle.streams[0].cancelled, "closing is always told to the replica"


async def test_a_replica_lost_before_it_said_anything_is_replaced_once() -> None:
    handle = Handle(Stream([[], []], ActorDiedError()), Stream(GOOD, None))
    assert (await events_of(handle))[-1] == Done()
    assert handle.n_calls == 2


async def test_a_request_is_not_sent_a_third_time() -> None:
    handle = Handle(Stream([], ActorDiedError()), Stream([], ActorDiedError()), Stream(GOOD, None))
    (failed,) = await events_of(handle)
    assert isinstance(failed, Failed)
    assert failed.code is FailureCode.ENGINE_LOST
    assert handle.n_calls == 2


async def test_a_replica_lost_after_its_first_word_ends_the_stream_with_engine_lost() -> None:
    handle = Handle(Stream(GOOD[:3], ActorDiedError()), Stream(GOOD, None))
    *_, last = await events_of(handle)
    assert isinstance(last, Failed)
    assert last.code is FailureCode.ENGINE_LOST
    assert handle.n_calls == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BackPressureError(num_queued_requests=9, max_queued_requests=8), FailureCode.QUEUE_FULL),
        (DeploymentUnavailableError(DeploymentID("LocalModel", "app")), FailureCode.MODEL_UNAVAILABLE),
    ],
)
async def test_overload_and_absence_are_told_apart(error: Exception, code: FailureCode) -> None:
    (failed,) = await events_of(Handle(Stream([], error)))
    assert isinstance(failed, Failed)
    assert failed.code is code


async def test_a_client_that_leaves_cancels_the_replicas_generator() -> None:
    handle = Handle(Stream(GOOD, None))
    events = RemoteBackend(handle).generate(REQUEST)
    await anext(events)
    await events.aclose()
    assert handle.streams[0].cancelled


class StoreHandle:
    """Every method raises what it is told, as Ray would."""

    def __init__(self, make: Callable[[], Exception]) -> None:
        self._make = make

    def __getattr__(self, name: str) -> StoreHandle:
        return self

    async def remote(self, *_: Any) -> None:
        raise self._make()


def from_task(error: Exception) -> Callable[[], Exception]:
    return lambda: RayTaskError("check", "Traceback: secret path", error).as_instanceof_cause()


@pytest.mark.parametrize(
    ("make", "raised", "text"),
    [
        (from_task(StoreError("The store is busy.")), StoreError, "The store is busy."),
        (lambda: StoreError("The store is busy."), StoreError, "The store is busy."),
        (ActorDiedError, StoreError, "The store is restarting."),
        (lambda: DeploymentUnavailableError(DeploymentID("S", "a")), StoreError, "The store is restarting."),
        (from_task(CursorNotFound("x")), CursorNotFound, "x"),
        (from_task(ValueError("never")), ValueError, "never"),
    ],
)
async def test_what_a_store_call_raises_is_the_stores_own_error(
    make: Callable[[], Exception], raised: type[Exception], text: str
) -> None:
    with pytest.raises(raised) as caught:
        await remote_store(cast(Any, StoreHandle(make))).check()
    assert str(caught.value) == text
