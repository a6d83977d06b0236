"""GET /v1/models: what can be called now."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from serve_app.api.context import context_of, tenant_of
from serve_app.api.directory import no_such_model
from serve_app.protocol import Json, ModelCard

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """Every model that answers now and that the key may call, under every id it answers to."""
    cards = await callable_models(request)
    return JSONResponse({"object": "list", "data": [_model(card) for card in cards]})


@router.get("/v1/models/{model:path}")
async def get_model(request: Request, model: str) -> Response:
    """One model; ids may contain slashes."""
    for card in await callable_models(request):
        if card.id == model:
            return JSONResponse(_model(card))
    raise no_such_model(model)


async def callable_models(request: Request) -> list[ModelCard]:
    """What answers now and the key may call."""
    tenant = tenant_of(request)
    return [card for card in await context_of(request).directory.list() if tenant.may_call(card.id)]


def _model(card: ModelCard) -> Json:
    """OpenAI's four keys; the context, where known, under the two names that clients look for."""
    shape: Json = {"id": card.id, "object": "model", "created": card.created, "owned_by": card.owned_by}
    if card.context_length is not None:
        shape |= {"context_length": card.context_length, "max_model_len": card.context_length}
    return shape
