"""Vectors, wherever they come from, for answers that are made of them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serve_app.api import translate
from serve_app.api.answer import Answer
from serve_app.api.calls import Call
from serve_app.api.reply import Reply
from serve_app.api.wire.embeddings import EmbeddingsRequest, ForwardedEmbeddings
from serve_app.api.wire.shape import read
from serve_app.protocol import Embedded, Json, Relayed, Usage

Vector = NDArray[np.float32]
Tell = Callable[[list[Vector], Usage], Json]


class Vectors(Reply[Any]):
    """Vectors of a local model or of an upstream, told by ``tell`` once all of them are there."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._found: dict[int, Vector] = {}

    def take(self, event: Embedded | Relayed) -> list[bytes]:
        if isinstance(event, Embedded):
            self._found |= {at: np.frombuffer(vector, dtype="<f4") for at, vector in event.vectors}
        else:
            for at, item in enumerate(orjson.loads(event.data).get("data") or ()):
                self._found[item.get("index", at)] = _vector(item["embedding"])
        return []

    def end(self, usage: Usage) -> list[bytes]:
        vectors = [self._found[at] for at in sorted(self._found)]
        return [orjson.dumps(self._tell(vectors, usage), option=orjson.OPT_SERIALIZE_NUMPY)]

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        return None


def _vector(value: Any) -> Vector:
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value), dtype="<f4")
    return np.asarray(value, dtype="<f4")


def embed(call: Call, body: Json, route: str, tell: Tell) -> Answer:
    """An answer made of the vectors of ``body``'s texts, in the words of ``/v1/embeddings``."""
    limits = call.context.limits
    if call.local:
        work = translate.embed(read(EmbeddingsRequest, body, limits), call.errand)
        return Answer(call, call.opened(route), work, Vectors(tell))
    wanted = read(ForwardedEmbeddings, body, limits)
    relay = translate.relay("embeddings", body, wanted, call.errand, api_key=call.caller_key)
    return Answer(call, call.opened(route), relay, Vectors(tell))
