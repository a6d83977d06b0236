"""What a response goes on from: items that are kept, and items that come with the request."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.api.context import Context
from serve_app.api.listing import soon
from serve_app.api.wire.items import AnyItem, NoItem, ReferenceItem
from serve_app.api.wire.responses import Asked
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode, History, Json


def no_response() -> RequestError:
    return RequestError(FailureCode.NOT_FOUND, "No response with this id is stored.")


def no_conversation() -> RequestError:
    return RequestError(FailureCode.NOT_FOUND, "There is no conversation with this id.")


async def past(context: Context, tenant: str, wanted: Asked) -> History:
    """The history the request names; ``RequestError`` when there is none that it could go on from."""
    if wanted.conversation is not None:
        found = await soon(context.store.conversations.history(tenant, wanted.conversation), context.limits)
        if found is None:
            raise no_conversation()
        return found
    if wanted.previous_response_id is None:
        return History()
    found = await soon(context.store.responses.history(tenant, wanted.previous_response_id), context.limits)
    if found is None:
        raise await _not_to_go_on_from(context, tenant, wanted.previous_response_id)
    return found


async def kept(context: Context, tenant: str, given: Sequence[AnyItem], known: Sequence[Json] = ()) -> tuple[Json, ...]:
    """The items as they will be stored, each with an id. References become what they refer to, in ``known`` first."""
    wanted = [item.id for item in given if isinstance(item, ReferenceItem)]
    found = {item["id"]: item for item in known} if wanted else {}
    if missing := [item_id for item_id in wanted if item_id not in found]:
        found |= await soon(context.store.responses.items(tenant, missing), context.limits)
    if unknown := next((item_id for item_id in wanted if item_id not in found), None):
        text = f"No item with the id '{unknown}' is stored."
        raise RequestError(FailureCode.NOT_FOUND, text, param="input")
    items = (item for item in given if not isinstance(item, NoItem))
    return tuple(found[one.id] if isinstance(one, ReferenceItem) else one.kept(context.new_id) for one in items)


async def _not_to_go_on_from(context: Context, tenant: str, response_id: str) -> RequestError:
    running = await soon(context.store.responses.get(tenant, response_id), context.limits)
    param = "previous_response_id"
    if running is not None:
        text = "The previous response has not ended yet."
        return RequestError(FailureCode.INVALID_REQUEST, text, param, "previous_response_not_ended")
    text = f"Previous response with id '{response_id}' not found."
    return RequestError(FailureCode.INVALID_REQUEST, text, param, "previous_response_not_found")
