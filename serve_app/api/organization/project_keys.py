"""``/v1/organization/projects/{project_id}/api_keys``: the keys of a project, whichever account holds them."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from serve_app.api.context import context_of
from serve_app.api.incoming import asked, known, sent
from serve_app.api.listing import listed, soon
from serve_app.api.organization.issuing import ends_at, missing
from serve_app.api.wire.organization import KeyUpdate, ProjectKeyPaging, project_key_json
from serve_app.protocol import Key, KeyChange, KeyQuery

router = APIRouter()

_KEYS = "/v1/organization/projects/{project_id}/api_keys"
_WHAT = "API key"


@router.get(_KEYS)
async def list_keys(request: Request, project_id: str) -> Response:
    """A page of those that are not revoked. There are none whose owner has no access."""
    context, page = context_of(request), asked(request, ProjectKeyPaging)
    if page.owner_project_access == "inactive":
        return listed([], False)
    query = KeyQuery(project=known(project_id, missing("project")), after=page.after, limit=page.limit)
    found = await soon(context.store.keys.keys(query), context.limits)
    accounts = {account.id: account for account in found.accounts}
    return listed([project_key_json(key, accounts.get(key.account or "")) for key in found.data], found.has_more)


@router.get(_KEYS + "/{key_id}")
async def get_key(request: Request, project_id: str, key_id: str) -> Response:
    return await _told(request, await _key(request, project_id, key_id))


@router.post(_KEYS + "/{key_id}")
async def update_key(request: Request, project_id: str, key_id: str) -> Response:
    """What it may from now on."""
    context, wanted = context_of(request), await sent(request, KeyUpdate)
    key = await _key(request, project_id, key_id)
    models = None if wanted.models is None else tuple(wanted.models)
    change = KeyChange(wanted.name, models, wanted.weight, ends_at(context, wanted.expires_in_seconds))
    changed = await soon(context.store.keys.change(key.id, change), context.limits)
    await context.admission.keys_changed()
    if changed is None:
        raise missing(_WHAT)
    return await _told(request, changed)


@router.delete(_KEYS + "/{key_id}")
async def delete_key(request: Request, project_id: str, key_id: str) -> Response:
    """Revokes it."""
    context, key = context_of(request), await _key(request, project_id, key_id)
    await soon(context.store.keys.revoke(key.id), context.limits)
    await context.admission.keys_changed()
    return JSONResponse({"object": "organization.project.api_key.deleted", "id": key.id, "deleted": True})


async def _key(request: Request, project_id: str, key_id: str) -> Key:
    context = context_of(request)
    key = await soon(context.store.keys.key(known(key_id, missing(_WHAT))), context.limits)
    if key is None or key.project != project_id or key.revoked_s is not None:
        raise missing(_WHAT)
    return key


async def _told(request: Request, key: Key) -> Response:
    context = context_of(request)
    asked_for = context.store.keys.account(key.project or "", key.account or "")
    return JSONResponse(project_key_json(key, await soon(asked_for, context.limits)))
