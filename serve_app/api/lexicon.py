"""``/tokenize``, ``/detokenize``, ``/apply-template``: llama-server's routes, for local models.

They take ``model`` beside llama-server's fields. Nothing is generated, so nothing is written to the books.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TypeVar

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.api import translate
from serve_app.api.calls import Call, receive
from serve_app.api.wire.chat import ChatRequest
from serve_app.api.wire.lexicon import DetokenizeRequest, TokenizeRequest
from serve_app.api.wire.shape import read
from serve_app.errors import RequestError
from serve_app.protocol import (
    Detokenize,
    Failed,
    FailureCode,
    Json,
    Render,
    Tokenize,
    Tokenized,
    Words,
    Written,
)

router = APIRouter()

_PATIENCE_S = 30.0

ValueT = TypeVar("ValueT", Tokenized, Written)


@router.post("/tokenize", response_model=None)
async def tokenize(request: Request) -> Response:
    """Text to token ids."""
    call = await receive(request)
    wanted = read(TokenizeRequest, call.body, call.context.limits)
    work = Tokenize(call.request_id, call.target.name, wanted.content, wanted.add_special, wanted.parse_special)
    found = await _ask(call, work, Tokenized)
    return _json({"tokens": [_piece(*each) if wanted.with_pieces else each[0] for each in found.tokens]})


@router.post("/detokenize", response_model=None)
async def detokenize(request: Request) -> Response:
    """Token ids to text."""
    call = await receive(request)
    wanted = read(DetokenizeRequest, call.body, call.context.limits)
    work = Detokenize(call.request_id, call.target.name, tuple(wanted.tokens))
    return _json({"content": (await _ask(call, work, Written)).text})


@router.post("/apply-template", response_model=None)
async def apply_template(request: Request) -> Response:
    """The prompt that a chat completion with this body would be computed from."""
    call = await receive(request)
    wanted = read(ChatRequest, call.body, call.context.limits)
    work = Render(call.request_id, call.target.name, translate.conversation(wanted))
    return _json({"prompt": (await _ask(call, work, Written)).text})


async def _ask(call: Call, work: Words, kind: type[ValueT]) -> ValueT:
    """The one value that answers; raises ``RequestError`` for a failure."""
    if not call.local:
        raise RequestError(FailureCode.INVALID_REQUEST, "Only a local model's words can be looked up.", "model")
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await _answer(call, work, kind)
    except TimeoutError:
        raise RequestError(FailureCode.TIMEOUT, "The model did not answer in time.") from None


async def _answer(call: Call, work: Words, kind: type[ValueT]) -> ValueT:
    async with aclosing(call.target.backend.generate(work)) as batches:
        async for batch in batches:
            for event in batch:
                if isinstance(event, kind):
                    return event
                if isinstance(event, Failed):
                    raise RequestError(event.code, event.message, event.param, event.detail)
    raise RequestError(FailureCode.ENGINE_LOST, "The model stopped before its answer was complete.")


def _piece(token: int, data: bytes) -> Json:
    """Bytes that are no text by themselves are shown as numbers."""
    try:
        return {"id": token, "piece": data.decode()}
    except UnicodeDecodeError:
        return {"id": token, "piece": list(data)}


def _json(body: Json) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
