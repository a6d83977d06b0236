"""Anthropic's Messages API: ``POST /v1/messages`` and ``/v1/messages/count_tokens``."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve_app.api import translate
from serve_app.api.answer import Answer
from serve_app.api.calls import Call, receive
from serve_app.api.dialects.anthropic_chat import chat_body, prompt_body
from serve_app.api.dialects.anthropic_reply import MessageBody, MessageStream
from serve_app.api.dialects.conversing import converse
from serve_app.api.wire.anthropic import Countable, MessagesRequest
from serve_app.api.wire.chat import ChatRequest
from serve_app.api.wire.shape import read
from serve_app.errors import RequestError
from serve_app.protocol import Failed, FailureCode, Generate, Started

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
    work = translate.chat(chat, call.errand)
    work = replace(work, sampling=replace(work.sampling, max_tokens=1))
    return JSONResponse({"input_tokens": await _prompt_tokens(call, work)})


async def _prompt_tokens(call: Call, work: Generate) -> int:
    try:
        async with (
            asyncio.timeout(call.context.limits.timeout_s),
            aclosing(call.target.backend.generate(work)) as answer,
        ):
            async for batch in answer:
                for event in batch:
                    if isinstance(event, Started):
                        return event.prompt_tokens
                    if isinstance(event, Failed):
                        raise RequestError(event.code, event.message, event.param, event.detail)
    except TimeoutError:
        raise RequestError(FailureCode.TIMEOUT, "The model did not answer in time.") from None
    raise RequestError(FailureCode.ENGINE_LOST, "The model stopped before its answer was complete.")
