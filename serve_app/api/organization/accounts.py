"""``/v1/organization/projects/{project_id}/service_accounts``: programs that hold keys of a project."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from serve_app.api.context import context_of
from serve_app.api.incoming import asked, known, sent
from serve_app.api.listing import listed, soon
from serve_app.api.organization.issuing import issue, missing
from serve_app.api.wire.organization import (
    AccountUpdate,
    NewAccount,
    NewAccountKey,
    Paging,
    account_json,
    account_key_json,
)
from serve_app.protocol import Account

router = APIRouter()

_ACCOUNTS = "/v1/organization/projects/{project_id}/service_accounts"
_WHAT = "service account"


@router.post(_ACCOUNTS)
async def create_account(request: Request, project_id: str) -> Response:
    """An account and, unless that is not wanted, its first key: its text is told here and nowhere else."""
    context, wanted = context_of(request), await sent(request, NewAccount)
    account = Account(
        f"svcacct_{context.new_id()}", known(project_id, missing("project")), wanted.name, context.clock()
    )
    if not wanted.create_service_account_only:
        key, secret = await issue(context, wanted.name, account, wanted, new=True)
        return JSONResponse(account_json(account) | {"api_key": account_key_json(key, secret)})
    if not await soon(context.store.keys.add_account(account), context.limits):
        raise missing("project")
    return JSONResponse(account_json(account) | {"role": "none", "api_key": None})


@router.get(_ACCOUNTS)
async def list_accounts(request: Request, project_id: str) -> Response:
    """A page, oldest first."""
    context, page = context_of(request), asked(request, Paging)
    asked_for = context.store.keys.accounts(known(project_id, missing("project")), page.after, page.limit)
    found = await soon(asked_for, context.limits)
    return listed([account_json(account) for account in found.data], found.has_more)


@router.get(_ACCOUNTS + "/{account_id}")
async def get_account(request: Request, project_id: str, account_id: str) -> Response:
    return JSONResponse(account_json(await _account(request, project_id, account_id)))


@router.post(_ACCOUNTS + "/{account_id}")
async def update_account(request: Request, project_id: str, account_id: str) -> Response:
    """Another name."""
    context, wanted = context_of(request), await sent(request, AccountUpdate)
    account = await _account(request, project_id, account_id)
    if wanted.name is not None:
        renaming = context.store.keys.rename_account(account.project, account.id, wanted.name)
        renamed = await soon(renaming, context.limits)
        if renamed is None:
            raise missing(_WHAT)
        account = renamed
    return JSONResponse(account_json(account))


@router.delete(_ACCOUNTS + "/{account_id}")
async def delete_account(request: Request, project_id: str, account_id: str) -> Response:
    """Revokes its keys with it."""
    context, account = context_of(request), await _account(request, project_id, account_id)
    await soon(context.store.keys.delete_account(account.project, account.id), context.limits)
    await context.admission.keys_changed()
    body = {"object": "organization.project.service_account.deleted", "id": account.id, "deleted": True}
    return JSONResponse(body)


@router.post(_ACCOUNTS + "/{account_id}/api_keys")
async def create_key(request: Request, project_id: str, account_id: str) -> Response:
    """One more key of an account; its text is told here and nowhere else."""
    wanted = await sent(request, NewAccountKey)
    account = await _account(request, project_id, account_id)
    key, secret = await issue(context_of(request), wanted.name or account.name, account, wanted, new=False)
    return JSONResponse(account_key_json(key, secret))


async def _account(request: Request, project_id: str, account_id: str) -> Account:
    context = context_of(request)
    ids = known(project_id, missing("project")), known(account_id, missing(_WHAT))
    account = await soon(context.store.keys.account(*ids), context.limits)
    if account is None:
        raise missing(_WHAT)
    return account
