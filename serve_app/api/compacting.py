"""``/v1/responses/compact`` and ``/input_tokens``: a history made shorter, and how long one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from serve_app.api import asking
from serve_app.api.answer import Answer
from serve_app.api.attempts import Reading
from serve_app.api.calls import Call, receive
from serve_app.api.counting import prompt_tokens
from serve_app.api.history import kept, past
from serve_app.api.items import sealed
from serve_app.api.reply import Reply
from serve_app.api.responding import request as request_for
from serve_app.api.response_reply import usage_json
from serve_app.api.responses import needs_input
from serve_app.api.wire.options import Called
from serve_app.api.wire.responses import Asked
from serve_app.api.wire.shape import read
from serve_app.errors import RequestError
from serve_app.protocol import Delta, FailureCode, Generate, Json, Usage

router = APIRouter()

_MOST_SUMMARY_TOKENS = 2048
_SUMMARISE = (
    "Summarise our conversation so far, so that it can be continued from your summary alone. Keep every fact, name, "
    "number, decision and open question; leave out greetings and repetitions. Answer with the summary only."
)


@router.post("/v1/responses/input_tokens")
async def count_input_tokens(request: Request) -> JSONResponse:
    """How many tokens the model would be given. The model itself counts: it takes the request and generates nothing."""
    call = await receive(request)
    if not call.local:
        text = "The tokens of an upstream's models can only be counted by the upstream."
        raise RequestError(FailureCode.UNSUPPORTED, text, param="model")
    wanted, items = await _given(call)
    work = request_for(call, asking.chat_body(wanted, call.body, items, local=True))
    assert isinstance(work, Generate)  # noqa: S101  # what a local model is asked
    return JSONResponse({"object": "response.input_tokens", "input_tokens": await prompt_tokens(call, work)})


@router.post("/v1/responses/compact", response_model=None)
async def compact(request: Request) -> Answer:
    """The history as one item that says as much: the model's own summary of it, for requests to begin with."""
    call = await receive(request)
    call = replace(call, called=Called(model=call.called.model, user=call.called.user))
    wanted, items = await _given(call)
    chat = asking.chat_body(wanted, call.body, items, local=call.local)
    chat["messages"] = [*chat["messages"], {"role": "user", "content": _SUMMARISE}]
    chat["max_completion_tokens"] = _MOST_SUMMARY_TOKENS
    for name in ("tools", "tool_choice", "parallel_tool_calls", "response_format"):
        chat.pop(name, None)
    backend = call.target.backend if call.local else Reading(call.target.backend)
    prepared = replace(call, target=replace(call.target, backend=backend))
    reply = CompactionReply(call.id, int(call.started_s))
    return Answer(prepared, call.opened("responses/compact"), request_for(call, chat), reply)


class CompactionReply(Reply[Delta]):
    """What the model says, as the one item of a compacted response."""

    def __init__(self, id_: str, created: int) -> None:
        self._id = id_
        self._created = created
        self._texts: list[str] = []

    def take(self, event: Delta) -> list[bytes]:
        self._texts.append(event.text)
        return []

    def end(self, usage: Usage) -> list[bytes]:
        content = sealed("".join(self._texts).strip())
        item = {"id": f"cmp_{self._id}", "type": "compaction", "encrypted_content": content}
        body = {
            "id": f"resp_{self._id}",
            "object": "response.compaction",
            "created_at": self._created,
            "output": [item],
            "usage": usage_json(usage),
        }
        return [orjson.dumps(body)]

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        return None


async def _given(call: Call) -> tuple[Asked, Sequence[Json]]:
    wanted = read(Asked, call.body, call.context.limits)
    needs_input(wanted)
    history = await past(call.context, call.tenant, wanted)
    items = await kept(call.context, call.tenant, wanted.input, history.items)
    return wanted, [*history.items, *items]
