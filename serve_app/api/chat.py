"""``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.api import translate
from serve_app.api.answer import Answer
from serve_app.api.calls import Call, receive
from serve_app.api.chunks import ChatBody, ChatStream, KeptChatStream
from serve_app.api.relayed import KeptRelayedBody, KeptRelayedStream, RelayedBody, RelayedStream
from serve_app.api.reply import Head, Reply
from serve_app.api.resumable import Resumable
from serve_app.api.wire.chat import ChatRequest
from serve_app.api.wire.forward import ForwardedChat
from serve_app.api.wire.shape import read
from serve_app.protocol import Delta, Generate, Opened, Relay, Relayed, Turn

router = APIRouter()

_ROUTE: Final = "chat/completions"


@router.post("/v1/chat/completions", response_model=None)
@router.post("/openai/deployments/{deployment:path}/chat/completions", response_model=None)
async def create(request: Request) -> Response:
    """A chat completion, streamed or whole; stored when ``store`` is true. A stored stream can be resumed."""
    call = await receive(request)
    return _local(call) if call.local else _upstream(call)


def _local(call: Call) -> Response:
    wanted = read(ChatRequest, call.body, call.context.limits)
    work = translate.chat(wanted, call.errand)
    head = Head(_id(call), int(call.started_s), call.target.id, call.fingerprint, translate.tier_name(work.tier))
    return _answer(call, wanted, work, _reply(wanted, head))


def _reply(wanted: ChatRequest, head: Head) -> Reply[Delta]:
    legacy = wanted.functions is not None
    body = ChatBody(head, wanted.n, legacy=legacy, metadata=wanted.metadata if wanted.store else None)
    if not wanted.stream:
        return body
    stream = ChatStream(head, wanted.n, usage=wanted.streams_usage, pad=wanted.streams_padding, legacy=legacy)
    return KeptChatStream(stream, body) if wanted.store else stream


def _upstream(call: Call) -> Response:
    wanted = read(ForwardedChat, call.body, call.context.limits)
    work = translate.relay(_ROUTE, call.body, wanted, call.errand, keep=wanted.store, api_key=call.caller_key)
    return _answer(call, wanted, work, _relayed(wanted, _id(call)))


def _relayed(wanted: ForwardedChat, id_: str) -> Reply[Relayed]:
    if wanted.store:
        return KeptRelayedStream(id_, wanted.metadata) if wanted.stream else KeptRelayedBody(id_, wanted.metadata)
    return RelayedStream() if wanted.stream else RelayedBody()


def _answer(call: Call, wanted: ChatRequest | ForwardedChat, work: Generate | Relay, reply: Reply[Any]) -> Response:
    answer = Answer(call, _opened(call, wanted), work, reply)
    return Resumable(answer, call, _id(call)) if wanted.store and wanted.stream else answer


def _opened(call: Call, wanted: ChatRequest | ForwardedChat) -> Opened:
    turn = Turn(_id(call), tuple(call.body["messages"]), wanted.metadata) if wanted.store else None
    return call.opened(_ROUTE, turn)


def _id(call: Call) -> str:
    """What the client sees, and what a stored completion is found by."""
    return f"chatcmpl-{call.id}"
