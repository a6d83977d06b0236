"""What every route handler works with: made once in ``create_app``, handed over by reference."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from starlette.requests import Request

from serve_app.api.admission import Admission, Tenant
from serve_app.api.background import Background
from serve_app.api.blobs import Blobs
from serve_app.api.directory import Directory
from serve_app.api.ledger import Ledger
from serve_app.api.limits import Limits
from serve_app.api.traffic import Traffic
from serve_app.protocol import Store, Tier


@dataclass(frozen=True, slots=True)
class Context:
    """``new_id`` gives 32 hexadecimal characters, never twice the same; ``clock`` wall time, in seconds;
    ``entropy`` as many bytes that nobody can guess."""

    directory: Directory
    store: Store
    blobs: Blobs
    ledger: Ledger
    admission: Admission
    limits: Limits
    new_id: Callable[[], str]
    clock: Callable[[], float]
    entropy: Callable[[int], bytes] = secrets.token_bytes
    background: Background = field(default_factory=Background)
    traffic: Traffic = field(default_factory=Traffic)


def context_of(request: Request) -> Context:
    """The context of the app that serves the request."""
    return cast(Context, request.app.state.context)


def tenant_of(request: Request) -> Tenant:
    """Who asks, as the gate admitted them. A request that passed no gate has no tenant, and fails here."""
    return cast(Tenant, request.state.tenant)


def tier_of(request: Request) -> Tier:
    """The best tier that the request may have: ``state.tier`` where whoever made it for us set one (a batch does)."""
    return cast(Tier, getattr(request.state, "tier", Tier.PRIORITY))


def request_id_of(request: Request) -> str:
    """The id under which the request stands in the logs and, as ``x-request-id``, in its answer."""
    return cast(str, request.state.request_id)
