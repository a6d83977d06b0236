"""``POST /v1/embeddings``."""

from __future__ import annotations

import base64
from typing import Any, Final

import numpy as np
import orjson
from fastapi import APIRouter
from starlette.requests import Request

from serve_app.api import translate
from serve_app.api.answer import Answer
from serve_app.api.calls import Call, receive
from serve_app.api.relayed import RelayedBody
from serve_app.api.reply import Reply
from serve_app.api.wire.embeddings import EmbeddingsRequest, ForwardedEmbeddings
from serve_app.api.wire.shape import read
from serve_app.protocol import Embed, Embedded, Json, Relay, Relayed, Usage

router = APIRouter()

_ROUTE: Final = "embeddings"


@router.post("/v1/embeddings", response_model=None)
@router.post("/openai/deployments/{deployment:path}/embeddings", response_model=None)
async def create(request: Request) -> Answer:
    """A vector for each text."""
    call = await receive(request)
    work, reply = _local(call) if call.local else _upstream(call)
    return Answer(call, call.opened(_ROUTE), work, reply)


def _local(call: Call) -> tuple[Embed, Reply[Embedded]]:
    wanted = read(EmbeddingsRequest, call.body, call.context.limits)
    return translate.embed(wanted, call.errand), EmbeddingsBody(
        call.target.id, len(wanted.inputs), in_base64=wanted.encoding_format == "base64"
    )


def _upstream(call: Call) -> tuple[Relay, Reply[Relayed]]:
    wanted = read(ForwardedEmbeddings, call.body, call.context.limits)
    return translate.relay(_ROUTE, call.body, wanted, call.errand, api_key=call.caller_key), RelayedBody()


class EmbeddingsBody(Reply[Embedded]):
    """One JSON body. Vectors become JSON as they come, so that no long list holds up the event loop at the end."""

    def __init__(self, model: str, n_inputs: int, *, in_base64: bool) -> None:
        self._model = model
        self._items = [b""] * n_inputs
        self._encode = _as_base64 if in_base64 else _as_numbers

    def take(self, event: Embedded) -> list[bytes]:
        for index, vector in event.vectors:
            item = {"object": "embedding", "index": index, "embedding": self._encode(vector)}
            self._items[index] = orjson.dumps(item, option=orjson.OPT_SERIALIZE_NUMPY)
        return []

    def end(self, usage: Usage) -> list[bytes]:
        tokens = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
        tail = orjson.dumps({"model": self._model, "usage": tokens})
        return [b'{"object":"list","data":[', b",".join(self._items), b"],", tail[1:]]

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        return None


def _as_base64(vector: bytes) -> str:
    """What OpenAI's client asks for unless told otherwise: the little-endian float32 values themselves."""
    return base64.b64encode(vector).decode()


def _as_numbers(vector: bytes) -> Any:
    return np.frombuffer(vector, dtype="<f4")
