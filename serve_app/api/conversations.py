"""``/v1/conversations``: histories with a name, which responses go on from and add to."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve_app.api.context import context_of, tenant_of
from serve_app.api.history import kept, no_conversation
from serve_app.api.incoming import asked, known, sent, there
from serve_app.api.listing import listed, soon
from serve_app.api.stored import Labels
from serve_app.api.wire.responses import ItemPage, NewConversation, NewItems
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode, Json

router = APIRouter()


@router.post("/v1/conversations")
async def create_conversation(request: Request) -> Response:
    """A conversation, empty or with the items it begins with. A body is not needed."""
    context, tenant = context_of(request), tenant_of(request).id
    wanted = await sent(request, NewConversation, b"{}")
    conversation = {
        "id": f"conv_{context.new_id()}",
        "object": "conversation",
        "created_at": int(context.clock()),
        "metadata": wanted.metadata,
    }
    items = await kept(context, tenant, wanted.items)
    await soon(context.store.conversations.create(tenant, conversation, items), context.limits)
    return JSONResponse(conversation)


@router.get("/v1/conversations/{conversation_id}")
async def get_conversation(request: Request, conversation_id: str) -> Response:
    context = context_of(request)
    answered = context.store.conversations.get(tenant_of(request).id, _known(conversation_id))
    return _found(await soon(answered, context.limits))


@router.post("/v1/conversations/{conversation_id}")
async def update_conversation(request: Request, conversation_id: str) -> Response:
    """Replaces the metadata; nothing else can be changed."""
    context = context_of(request)
    metadata = (await sent(request, Labels)).metadata
    answered = context.store.conversations.set_metadata(tenant_of(request).id, _known(conversation_id), metadata)
    return _found(await soon(answered, context.limits))


@router.delete("/v1/conversations/{conversation_id}")
async def delete_conversation(request: Request, conversation_id: str) -> Response:
    """Forgets the conversation. The responses that were made in it stay, with all they need."""
    context = context_of(request)
    answered = context.store.conversations.delete(tenant_of(request).id, _known(conversation_id))
    if not await soon(answered, context.limits):
        raise no_conversation()
    return JSONResponse({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


@router.post("/v1/conversations/{conversation_id}/items")
async def create_items(request: Request, conversation_id: str) -> Response:
    """Puts items behind the last one; all of them or none."""
    context, tenant = context_of(request), tenant_of(request).id
    wanted = await sent(request, NewItems)
    items = await kept(context, tenant, wanted.items)
    answered = context.store.conversations.append(tenant, _known(conversation_id), items)
    if not await soon(answered, context.limits):
        raise no_conversation()
    return listed(items, False)


@router.get("/v1/conversations/{conversation_id}/items")
async def list_items(request: Request, conversation_id: str) -> Response:
    context = context_of(request)
    found = context.store.conversations.items(
        tenant_of(request).id, _known(conversation_id), asked(request, ItemPage).query
    )
    page = there(await soon(found, context.limits), no_conversation())
    return listed(page.data, page.has_more)


@router.get("/v1/conversations/{conversation_id}/items/{item_id}")
async def get_item(request: Request, conversation_id: str, item_id: str) -> Response:
    context = context_of(request)
    answered = context.store.conversations.item(tenant_of(request).id, _known(conversation_id), item_id)
    return _found_item(await soon(answered, context.limits))


@router.delete("/v1/conversations/{conversation_id}/items/{item_id}")
async def delete_item(request: Request, conversation_id: str, item_id: str) -> Response:
    """Takes one item out; answers with the conversation."""
    context = context_of(request)
    answered = context.store.conversations.remove(tenant_of(request).id, _known(conversation_id), item_id)
    return _found_item(await soon(answered, context.limits))


def _known(conversation_id: str) -> str:
    return known(conversation_id, no_conversation())


def _found(conversation: Json | None) -> Response:
    return JSONResponse(there(conversation, no_conversation()))


def _found_item(found: Json | None) -> Response:
    text = "There is no such item in a conversation with this id."
    return JSONResponse(there(found, RequestError(FailureCode.NOT_FOUND, text)))
