"""Anthropic's Messages API: ``POST /v1/messages`` and ``/v1/messages/count_tokens``."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve_app.api import translate
from serve_app.api.answer import Answer
from serve_app.api.calls import receive
from serve_app.api.counting import prompt_tokens
from serve_app.api.dialects.anthropic_chat import chat_body, prompt_body
from serve_app.api.dialects.anthropic_reply import MessageBody, MessageStream
from serve_app.api.dialects.conversing import converse
from serve_app.api.wire.anthropic import Countable, MessagesRequest
from serve_app.api.wire.chat import ChatRequest
from serve_app.api.wire.shape import read
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode

router = APIRouter()

_ROUTE: Final = "messages"


@router.post("/v1/messages", response_model=None)
async def create(request: Request) -> Answer:
    """A message, streamed or whole."""
    call = await receive(request)
    wanted = read(MessagesRequest, call.body, call.context.limits)
    reply = (MessageStream if wanted.stream else MessageBody)(f"msg_{call.id}", call.target.id)
    return converse(call, chat_body(wanted, local=call.local), _ROUTE, reply)


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request) -> Response:
    """How long the prompt is, for a local model: it is begun, and given up as soon as that is known."""
    call = await receive(request)
    wanted = read(Countable, call.body, call.context.limits)
    if not call.local:
        text = "The tokens of an upstream's model cannot be counted here."
        raise RequestError(FailureCode.UNSUPPORTED_ENDPOINT, text)
    chat = read(ChatRequest, prompt_body(wanted, local=True), call.context.limits)
    return JSONResponse({"input_tokens": await prompt_tokens(call, translate.chat(chat, call.errand))})
