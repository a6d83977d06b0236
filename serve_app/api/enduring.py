"""Responses in the background: they are made whether or not anybody waits, here or, should this server die, elsewhere.

The store says whose a response is. Whoever begins one, or takes one over from a server that fell silent, makes it; who
learns that it is not theirs any more, because it was cancelled or taken over, stops. So each is made to its end by one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.calls import Call
from serve_app.api.context import Context
from serve_app.api.responding import ROUTE, Job, answer
from serve_app.api.response_reply import failure
from serve_app.api.resumable import Resumable
from serve_app.api.wire.options import Called
from serve_app.api.wire.responses import ResponseRequest
from serve_app.api.wire.shape import read
from serve_app.errors import RequestError
from serve_app.protocol import (
    Closed,
    Failed,
    FailureCode,
    Json,
    Opened,
    Orphan,
    ResponseTurn,
    StoreError,
    Tier,
    Usage,
)

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""Tenant and response id."""

_SCOPE: Scope = {"type": "http", "method": "POST", "path": "/v1/responses", "headers": []}


@dataclass(frozen=True, slots=True)
class Watch:
    """Seconds between looks at what became of our responses, and at what others left behind; how long those must have
    been silent; how many responses are taken over at once."""

    look_s: float = 1.0
    claim_s: float = 5.0
    silent_s: float = 20.0
    most: int = 16


@dataclass(slots=True, eq=False)
class _Making:
    """``stop``, set, ends it. ``durable``: the store knows of it, and by now would say that it is ours."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    durable: bool = False


class Enduring:
    """The responses that this ingress makes in the background."""

    def __init__(self, context: Context, watch: Watch | None = None) -> None:
        limits = replace(context.limits, timeout_s=context.limits.background_timeout_s)
        self._context = replace(context, limits=limits)
        self._writer = context.ledger.writer
        self._watch = watch or Watch()
        self._making: dict[Key, _Making] = {}

    def start(self) -> None:
        """Looks after them until the context's background work ends."""
        start, watch = self._context.background.start, self._watch
        start(_every(watch.look_s, self._drop_lost), "watch over responses")
        start(_every(watch.claim_s, self._take_over), "search for responses")

    async def begin(self, job: Job) -> None:
        """On return it is durable and under way; ``RequestError`` when it cannot be."""
        key, making = self._register(job)
        try:
            work = answer(self._ours(job, making))
            await work.begin()
        except BaseException:
            del self._making[key]
            raise
        making.durable = True
        run = self._to_its_end(key, making, work.run, _SCOPE, partial(_until, making.stop), _nowhere)
        self._context.background.start(run, f"response {job.response_id}")

    def stream(self, job: Job) -> Response:
        """The same, for a client that reads along as long as it likes."""
        key, making = self._register(job)
        app: ASGIApp = partial(self._to_its_end, key, making, answer(self._ours(job, making)))
        return Resumable(app, job.call, job.response_id, making.stop)

    def stop(self, tenant: str, response_id: str) -> None:
        """Nobody wants it any more. Nothing happens where it is not made here."""
        if making := self._making.get((tenant, response_id)):
            making.stop.set()

    def _register(self, job: Job) -> tuple[Key, _Making]:
        key, making = (job.call.tenant, job.response_id), _Making()
        self._making[key] = making
        return key, making

    def _ours(self, job: Job, making: _Making) -> Job:
        async def tell() -> None:
            with suppress(StoreError):
                await self._context.store.responses.begin(job.call.tenant, job.response_id, self._writer)

        def taken_up() -> None:
            making.durable = True
            self._context.background.start(tell(), f"beginning of response {job.response_id}")

        return replace(job, call=replace(job.call, context=self._context), taken_up=taken_up)

    async def _to_its_end(
        self, key: Key, making: _Making, work: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            await work(scope, receive, send)
        finally:
            if self._making.get(key) is making:
                del self._making[key]

    # --- what became of ours, and what others left --------------------------------------------------------------

    async def _drop_lost(self) -> None:
        durable = [key for key, making in self._making.items() if making.durable]
        for key in await self._context.store.responses.lost(self._writer, durable) if durable else ():
            self.stop(*key)

    async def _take_over(self) -> None:
        """Ours that nobody makes are among them: their claim was lost on its way to us."""
        watch, held = self._watch, tuple(self._making)
        for orphan in await self._context.store.responses.claim(self._writer, watch.silent_s, watch.most, held):
            log.warning("response %s is begun again: its server was stopped", orphan.response["id"])
            self._context.background.start(self._adopt(orphan), f"response {orphan.response['id']}")

    async def _adopt(self, orphan: Orphan) -> None:
        """It is begun again or ends as failed, whatever happens."""
        try:
            await self.begin(await self._job(orphan))
        except RequestError as refusal:
            await self._give_up(orphan, refusal.failed)
        except Exception:
            log.exception("response %s cannot be begun again", orphan.response["id"])
            text = "The response could not be generated again after its server was stopped."
            await self._give_up(orphan, Failed(FailureCode.INTERNAL, text))

    async def _job(self, orphan: Orphan) -> Job:
        context = self._context
        body: Json = {**orphan.request["body"], "stream": False, "stream_options": None}
        n_items: int = orphan.request["n_items"]
        called = read(Called, body, context.limits)
        call = Call(
            context=context,
            body=body,
            called=called,
            target=await context.directory.resolve(called.model),
            tenant=orphan.tenant,
            request_id=orphan.response["id"],
            id=context.new_id(),
            started_s=context.clock(),
            caller_key=None,
            tier=Tier.PRIORITY,
            weight=orphan.request.get("weight", 1.0),
        )
        return Job(
            call=call,
            wanted=read(ResponseRequest, body, context.limits),
            history=orphan.history,
            items=(),
            response_id=orphan.response["id"],
            created=orphan.response["created_at"],
            added=orphan.history.items[len(orphan.history.items) - n_items :],
        )

    async def _give_up(self, orphan: Orphan, failed: Failed) -> None:
        response = orphan.response | failure(failed)
        turn = ResponseTurn(response["id"], (), response, orphan.history.tip, background=True)
        opened = Opened(
            entry_id=self._context.new_id(),
            writer=self._writer,
            tenant=orphan.tenant,
            request_id=response["id"],
            model=response["model"],
            route=ROUTE,
            served_by="local",
            started_s=self._context.clock(),
            turn=turn,
        )
        await self._context.ledger.close(
            Closed(opened, "failed", Usage(), 0.0, failure=failed.code, completion=response)
        )


async def _every(interval_s: float, look: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await look()
        except StoreError:
            continue  # it will be there again
        except Exception:
            log.exception("a look after responses failed")


async def _until(stop: asyncio.Event) -> Message:
    await stop.wait()
    return {"type": "http.disconnect"}


async def _nowhere(message: Message) -> None:
    """Nobody waits for the answer: what counts is in the store."""
