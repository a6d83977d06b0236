"""Who may ask: the key of a request becomes a tenant, or the request is refused.

Keys are configured, or made and kept in the store. Without any nobody is trusted but this machine: a request must come
from a loopback address, and must not have been made by a web page of another site (which the browser on this machine
would send from loopback too).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from serve_app.api.keyring import Keyring
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode, Key
from serve_app.protocol import Scope as Right

_NO_KEY = "No API key was sent. Send one in the header `Authorization: Bearer YOUR_API_KEY`."
_WRONG_KEY = "The API key is not valid."
_LOCAL_ONLY = (
    "No API key is configured, so only requests from this machine are answered. "
    "To answer others, set LLM_BACKEND_API_KEY and restart, or make a key: llm-backend keys create."
)


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose data a request may see, and what it may do.

    The id is the project of the key, or else derived from the key without revealing it. ``models``: what it may call,
    None for all; ``key``: the id of the key, where it has one.
    """

    id: str
    scopes: frozenset[Right] = frozenset({"inference"})
    models: frozenset[str] | None = None
    weight: float = 1.0
    key: str | None = None

    def may_call(self, model: str) -> bool:
        """By the name it is called by."""
        return self.models is None or model in self.models


class Admission:
    """Keeps digests of the configured keys, never the keys. With no key at all, only this machine is admitted.

    ``keyring``: the keys that were made; without it there are none. ``behind_proxy``: Ray Serve's HAProxy stands in
    front, on this host, and appends ``X-Forwarded-For``.
    """

    def __init__(
        self, keys: tuple[str, ...] = (), *, keyring: Keyring | None = None, behind_proxy: bool = False
    ) -> None:
        self._digests = tuple(_digest_of_configured(key) for key in keys)
        self._keyring = keyring
        self._behind_proxy = behind_proxy

    async def admit(self, scope: Scope) -> Tenant:
        """The tenant of an HTTP request; raises ``RequestError`` when it must not be answered."""
        headers = Headers(scope=scope)
        presented = _presented(headers)
        if (tenant := self._configured(presented)) is not None:
            return tenant
        if self._keyring is not None and (key := await self._keyring.find(presented)) is not None:
            return _tenant(key)
        if self._digests or (self._keyring is not None and await self._keyring.in_use()):
            raise RequestError(FailureCode.UNAUTHENTICATED, _WRONG_KEY if presented else _NO_KEY)
        if self._from_here(scope, headers) and _not_a_foreign_page(headers):
            return Tenant("local")
        raise RequestError(FailureCode.REMOTE_WITHOUT_KEY, _LOCAL_ONLY)

    async def again(self, tenant_id: str, key_id: str | None) -> Tenant:
        """The tenant of a request that was admitted before and is made now: its key may have been revoked since."""
        if key_id is None:
            return Tenant(tenant_id)
        key = None if self._keyring is None else await self._keyring.key(key_id)
        if key is None:
            raise RequestError(FailureCode.UNAUTHENTICATED, _WRONG_KEY)
        return _tenant(key)

    async def keys_changed(self) -> None:
        """On return nobody is admitted here by what was known before, unless the store is out."""
        if self._keyring is not None:
            await self._keyring.changed()

    def _configured(self, presented: Sequence[str]) -> Tenant | None:
        # Every digest is compared with every key sent: the time taken tells nothing about which of them came close.
        matches = [
            known
            for digest in (sha256(key.encode("latin-1")).digest() for key in presented)
            for known in self._digests
            if hmac.compare_digest(digest, known)
        ]
        return Tenant(matches[0].hex()[:16]) if matches else None

    def _from_here(self, scope: Scope, headers: Headers) -> bool:
        peer = _host_of(scope.get("client"))
        if not self._behind_proxy:
            return _is_loopback(peer)
        this_host = _is_loopback(peer) or (_is_address(peer) and peer == _host_of(scope.get("server")))
        # Only the very last address is the proxy's own word; whatever stands before it, the client may have written.
        forwarded = headers.getlist("x-forwarded-for")
        return this_host and bool(forwarded) and _is_loopback(forwarded[-1].rpartition(",")[2].strip())


def _tenant(key: Key) -> Tenant:
    models = None if key.models is None else frozenset(key.models)
    return Tenant(key.project or key.id, frozenset(key.scopes), models, key.weight, key.id)


def _digest_of_configured(key: str) -> bytes:
    if not key or key != key.strip():
        raise ValueError("an API key must not be empty and must not begin or end with white space")
    return sha256(key.encode()).digest()


def _presented(headers: Headers) -> tuple[str, ...]:
    """The keys a request carries: OpenAI's header, then Anthropic's and Azure's spelling of it."""
    authorization = headers.get("authorization")
    found = [headers.get("x-api-key"), headers.get("api-key")]
    if authorization is not None:
        scheme, _, token = authorization.strip().partition(" ")
        found.insert(0, token.strip() if scheme.lower() == "bearer" else "")
    return tuple(key for key in found if key is not None)


def _host_of(address: tuple[str, int | None] | None) -> str:
    return address[0] if address else ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def _not_a_foreign_page(headers: Headers) -> bool:
    """Whether ``Host`` and ``Origin``, where sent, name this machine: a loopback address or a name without dots.

    A page of another site names its own host in ``Origin``, and in ``Host`` when its name was made to resolve here.
    """
    named = [f"//{headers['host']}"] if "host" in headers else []
    return all(_is_here(url) for url in [*named, *headers.getlist("origin")])


def _is_here(url: str) -> bool:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return host is not None and (_is_loopback(host) or ("." not in host and ":" not in host))
