"""``POST /v1/rerank``, as Jina, Cohere and vLLM have it: documents by how near they are to a query."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import Discriminator, Field, Tag
from starlette.requests import Request
from starlette.responses import Response

from serve_app.api.calls import receive
from serve_app.api.dialects.vectors import Vector, embed
from serve_app.api.passthrough import pass_on
from serve_app.api.wire.embeddings import InputText
from serve_app.api.wire.options import AtLeastOne
from serve_app.api.wire.shape import Shape, read
from serve_app.protocol import Json, Usage

router = APIRouter()

_ROUTE: Final = "rerank"
_MOST_DOCUMENTS = 1024


class Document(Shape):
    text: InputText


AnyDocument = Annotated[
    Annotated[InputText, Tag("~text")] | Annotated[Document, Tag("~document")],
    Discriminator(lambda value: "~document" if isinstance(value, dict) else "~text"),
]


class RerankRequest(Shape):
    """``top_n`` None: all of them."""

    model: str
    query: InputText
    documents: list[AnyDocument] = Field(min_length=1, max_length=_MOST_DOCUMENTS)
    top_n: AtLeastOne | None = None
    return_documents: bool = False

    @property
    def texts(self) -> list[str]:
        return [one if isinstance(one, str) else one.text for one in self.documents]


@router.post("/v1/rerank", response_model=None)
@router.post("/v2/rerank", response_model=None)
@router.post("/rerank", response_model=None)
async def rerank(request: Request) -> Response:
    """By the cosine of their vectors with a local embedding model; an upstream's model answers for itself."""
    call = await receive(request)
    if not call.local:
        return await pass_on(request, f"/{_ROUTE}", _ROUTE)
    wanted = read(RerankRequest, call.body, call.context.limits)
    body = {"model": wanted.model, "input": [wanted.query, *wanted.texts], "truncate": True}

    def tell(vectors: list[Vector], usage: Usage) -> Json:
        tokens = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
        head = {"id": f"rerank-{call.id}", "model": call.target.id, "usage": tokens}
        return head | {"results": _results(wanted, vectors[0], vectors[1:])}

    return embed(call, body, _ROUTE, tell)


def _results(wanted: RerankRequest, query: Vector, vectors: list[Vector]) -> list[Json]:
    """The best first; among equals, in the order they came."""
    scores = [float(query @ vector) for vector in vectors]
    best = sorted(range(len(scores)), key=lambda at: -scores[at])[: wanted.top_n]
    texts = wanted.texts
    shown: dict[int, Any] = {at: {"document": {"text": texts[at]}} for at in best} if wanted.return_documents else {}
    return [{"index": at, "relevance_score": scores[at]} | shown.get(at, {}) for at in best]
