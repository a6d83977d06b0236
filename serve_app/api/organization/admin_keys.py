"""``/v1/organization/admin_api_keys``: the keys that may do what is here."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from serve_app.api.context import context_of
from serve_app.api.incoming import asked, known, sent
from serve_app.api.listing import listed, soon
from serve_app.api.organization.issuing import issue_admin, missing
from serve_app.api.wire.organization import KeyPaging, NewAdminKey, admin_key_json
from serve_app.protocol import Key, KeyQuery

router = APIRouter()

_KEYS = "/v1/organization/admin_api_keys"
_WHAT = "admin API key"


@router.post(_KEYS)
async def create_key(request: Request) -> Response:
    """A new key; its text is told here and nowhere else."""
    wanted = await sent(request, NewAdminKey)
    key, secret = await issue_admin(context_of(request), wanted.name, wanted.expires_in_seconds)
    return JSONResponse(admin_key_json(key, secret))


@router.get(_KEYS)
async def list_keys(request: Request) -> Response:
    """A page of those that are not revoked."""
    context, page = context_of(request), asked(request, KeyPaging)
    query = KeyQuery(organization=True, after=page.after, limit=page.limit, newest_first=page.order == "desc")
    found = await soon(context.store.keys.keys(query), context.limits)
    return listed([admin_key_json(key) for key in found.data], found.has_more)


@router.get(_KEYS + "/{key_id}")
async def get_key(request: Request, key_id: str) -> Response:
    return JSONResponse(admin_key_json(await _key(request, key_id)))


@router.delete(_KEYS + "/{key_id}")
async def delete_key(request: Request, key_id: str) -> Response:
    """Revokes it."""
    context, key = context_of(request), await _key(request, key_id)
    await soon(context.store.keys.revoke(key.id), context.limits)
    await context.admission.keys_changed()
    return JSONResponse({"object": "organization.admin_api_key.deleted", "id": key.id, "deleted": True})


async def _key(request: Request, key_id: str) -> Key:
    context = context_of(request)
    key = await soon(context.store.keys.key(known(key_id, missing(_WHAT))), context.limits)
    if key is None or key.project is not None or key.revoked_s is not None:
        raise missing(_WHAT)
    return key
