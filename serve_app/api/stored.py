"""Stored chat completions: what ``store: true`` kept, for the tenant that kept it. Nobody else's exists."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from serve_app.api.body import parse
from serve_app.api.context import context_of, tenant_of
from serve_app.api.incoming import known, there
from serve_app.api.listing import ID, Number, listed, query_of, soon
from serve_app.api.replay import position_asked, replay
from serve_app.api.wire.options import Metadata
from serve_app.api.wire.shape import Shape, read
from serve_app.errors import RequestError
from serve_app.protocol import CompletionQuery, FailureCode, Json, Order

router = APIRouter()

_METADATA_KEY = re.compile(r"metadata\[(.*)\]", re.DOTALL)


class Paging(Shape):
    """The query string of a list."""

    after: str | None = Field(None, pattern=ID)
    limit: Annotated[Number, Field(ge=1, le=100)] = 20
    order: Order = "asc"
    model: str | None = None
    metadata: Metadata = Field(default_factory=dict)


class Labels(Shape):
    """What can be changed of a stored completion."""

    metadata: Metadata = Field(default_factory=dict)


@router.get("/v1/chat/completions")
async def list_completions(request: Request) -> Response:
    """A page of the tenant's completions."""
    context = context_of(request)
    page = await soon(context.store.completions(tenant_of(request).id, _query(request)), context.limits)
    return listed(page.data, page.has_more)


@router.get("/v1/chat/completions/{completion_id}")
async def get_completion(request: Request, completion_id: str) -> Response:
    """One completion, as it was answered; with ``stream=true`` its events, also while they are being generated."""
    context = context_of(request)
    if (after := position_asked(request)) is not None:
        return await replay(context, tenant_of(request).id, _known(completion_id), after)
    asked = context.store.completion(tenant_of(request).id, _known(completion_id))
    return _found(await soon(asked, context.limits))


@router.post("/v1/chat/completions/{completion_id}")
async def update_completion(request: Request, completion_id: str) -> Response:
    """Replaces the metadata; nothing else can be changed."""
    context = context_of(request)
    body = parse(await request.body(), context.limits)
    if "metadata" not in body:
        text = "Missing required parameter: 'metadata'."
        raise RequestError(FailureCode.INVALID_REQUEST, text, "metadata", "missing_required_parameter")
    metadata = read(Labels, body, context.limits).metadata
    asked = context.store.set_metadata(tenant_of(request).id, _known(completion_id), metadata)
    return _found(await soon(asked, context.limits))


@router.delete("/v1/chat/completions/{completion_id}")
async def delete_completion(request: Request, completion_id: str) -> Response:
    """Forgets one completion and its messages."""
    context = context_of(request)
    tenant = tenant_of(request).id
    if not await soon(context.store.delete_completion(tenant, _known(completion_id)), context.limits):
        raise _not_found()
    await soon(context.store.streams.drop(tenant, completion_id), context.limits)
    return JSONResponse({"object": "chat.completion.deleted", "id": completion_id, "deleted": True})


@router.get("/v1/chat/completions/{completion_id}/messages")
async def list_messages(request: Request, completion_id: str) -> Response:
    """A page of the messages that were sent with the request."""
    context = context_of(request)
    asked = context.store.messages(tenant_of(request).id, _known(completion_id), _query(request))
    page = await soon(asked, context.limits)
    if page is None:
        raise _not_found()
    return listed(tuple(_message(message) for message in page.data), page.has_more)


def _query(request: Request) -> CompletionQuery:
    """The page asked for; parameters that no list knows are ignored."""
    items = query_of(request)
    asked = read(Paging, {**dict(items), "metadata": _bracketed(items)}, context_of(request).limits)
    return CompletionQuery(asked.after, asked.limit, asked.order, asked.model, asked.metadata)


def _bracketed(items: list[tuple[str, str]]) -> dict[str, str]:
    """``metadata[key]=value``, as the SDKs spell a mapping in a query string."""
    matches = ((_METADATA_KEY.fullmatch(name), value) for name, value in items)
    return {match[1]: value for match, value in matches if match}


def _known(completion_id: str) -> str:
    return known(completion_id, _not_found())


def _found(completion: Json | None) -> Response:
    return JSONResponse(there(completion, _not_found()))


def _message(message: Json) -> Json:
    """A message as OpenAI lists it: the text in ``content``; where parts were sent, these in ``content_parts``."""
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    text = content if parts is None else "".join(_text(part) for part in parts)
    return {"refusal": None, "name": None} | message | {"content": text, "content_parts": parts}


def _text(part: object) -> str:
    """The text of a part, none if it is an image or nothing we know: an upstream may know more kinds than we do."""
    text = part.get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else ""


def _not_found() -> RequestError:
    return RequestError(FailureCode.NOT_FOUND, "No chat completion with this id is stored.")
