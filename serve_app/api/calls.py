"""One call to a completion route: who asks, what for, and who will answer."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b, sha256

from starlette.requests import Request

from serve_app.api.body import parse
from serve_app.api.context import Context, context_of, request_id_of, tenant_of, tier_of
from serve_app.api.directory import Target, not_allowed
from serve_app.api.translate import Errand
from serve_app.api.wire.options import Called
from serve_app.api.wire.shape import read
from serve_app.protocol import Json, Opened, ResponseTurn, Tier, Turn, is_ours

_MAX_USER_CHARS = 512


@dataclass(frozen=True, slots=True)
class Call:
    """``id`` is new: 32 hexadecimal characters. ``started_s`` is wall-clock seconds; ``caller_key`` is not ours."""

    context: Context
    body: Json
    called: Called
    target: Target
    tenant: str
    request_id: str
    id: str
    started_s: float
    caller_key: str | None
    tier: Tier
    weight: float = 1.0

    @property
    def local(self) -> bool:
        return self.target.served_by == "local"

    @property
    def errand(self) -> Errand:
        return Errand(
            self.request_id, self.tenant, self.target.name, self.context.limits.timeout_s, self.tier, self.weight
        )

    @property
    def fingerprint(self) -> str:
        """The same for the same model, as far as a name can tell."""
        return "fp_" + blake2b(self.target.name.encode(), digest_size=5).hexdigest()

    def opened(self, route: str, turn: Turn | ResponseTurn | None = None) -> Opened:
        """The entry to keep the books by."""
        user = self.called.safety_identifier or self.called.user
        return Opened(
            entry_id=self.id,
            writer=self.context.ledger.writer,
            tenant=self.tenant,
            request_id=self.request_id,
            model=self.target.id,
            route=route,
            served_by=self.target.served_by,
            started_s=self.started_s,
            user=user[:_MAX_USER_CHARS] if user else None,
            turn=turn,
        )


async def receive(request: Request) -> Call:
    """The call a request makes; raises ``RequestError`` for a body that names no model we can call."""
    return await place(request, await body_of(request))


async def body_of(request: Request) -> Json:
    """The request's JSON. Azure's addresses name the model; it is the one that counts."""
    body = parse(await request.body(), context_of(request).limits)
    deployment = request.path_params.get("deployment")
    return body if deployment is None else {**body, "model": deployment}


async def place(request: Request, body: Json) -> Call:
    """The call for a body in OpenAI's words, as far as those of ``Called`` go."""
    context, tenant = context_of(request), tenant_of(request)
    called = read(Called, body, context.limits)
    if not tenant.may_call(called.model):
        raise not_allowed(called.model)
    target = await context.directory.resolve(called.model)
    return Call(
        context=context,
        body=body,
        called=called,
        target=target,
        tenant=tenant.id,
        request_id=request_id_of(request),
        id=context.new_id(),
        started_s=context.clock(),
        caller_key=caller_key(request, tenant.id) if target.caller_key else None,
        tier=tier_of(request),
        weight=tenant.weight,
    )


def caller_key(request: Request, tenant: str) -> str | None:
    """The bearer token, unless it is a key that opens *this* door: those must never travel on."""
    scheme, _, token = request.headers.get("authorization", "").strip().partition(" ")
    token = token.strip()
    ours = is_ours(token) or sha256(token.encode("latin-1")).hexdigest()[:16] == tenant
    return token if token and scheme.lower() == "bearer" and not ours else None
