"""Making keys, and what all that is about them has in common."""

from __future__ import annotations

from serve_app.api.context import Context
from serve_app.api.listing import soon
from serve_app.api.wire.organization import Allowed
from serve_app.errors import RequestError
from serve_app.protocol import ENTROPY_BYTES, Account, FailureCode, Key, Secret


def missing(what: str) -> RequestError:
    return RequestError(FailureCode.NOT_FOUND, f"No {what} with this id exists.")


def ends_at(context: Context, lifetime_s: int | None) -> float | None:
    return None if lifetime_s is None else context.clock() + lifetime_s


async def issue_admin(context: Context, name: str, lifetime_s: int | None) -> tuple[Key, Secret]:
    """A key of the organization."""
    secret = Secret.of(context.entropy(ENTROPY_BYTES))
    now_s, expires_s = context.clock(), ends_at(context, lifetime_s)
    key = Key(f"key_{context.new_id()}", name, secret.hint, ("admin",), now_s, expires_s=expires_s)
    await soon(context.store.keys.add(key, secret.digest), context.limits)
    return key, secret


async def issue(context: Context, name: str, account: Account, allowed: Allowed, *, new: bool) -> tuple[Key, Secret]:
    """A key of the account, with the account where that is ``new``. Refused where its project takes no keys."""
    secret = Secret.of(context.entropy(ENTROPY_BYTES))
    key = Key(
        id=f"key_{context.new_id()}",
        name=name,
        hint=secret.hint,
        scopes=("inference",),
        created_s=context.clock(),
        project=account.project,
        account=account.id,
        models=tuple(allowed.models) if allowed.models else None,
        weight=1.0 if allowed.weight is None else allowed.weight,
        expires_s=ends_at(context, allowed.expires_in_seconds),
    )
    if not await soon(context.store.keys.add(key, secret.digest, account if new else None), context.limits):
        raise missing("project")
    return key, secret
