"""Connections to one upstream, and what may travel on them."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from serve_app.upstream.deadlines import Deadlines

Trust = ssl.SSLContext | bool
"""Whose certificates are believed. False: there are none to see."""


def trust_for(url: str) -> Trust:
    """For connections to one server. Loading the authorities takes 0.15 s: once for all its clients, and never for
    plain HTTP (no redirect is followed, so a client of a plain URL meets no certificate).
    """
    return httpx2.create_ssl_context(trust_env=False) if url.startswith("https") else False


def http_client(
    deadlines: Deadlines,
    max_connections: int,
    trust: Trust,
    *hooks: Callable[[httpx2.Response], Awaitable[None]],
) -> httpx2.AsyncClient:
    """No redirects, proxies or cookies: callers share this client, and what one is sent must not reach another.

    There is no read timeout: ``Patience`` decides that, and a retry must not start it anew. ``hooks`` see responses.
    """
    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(connect=deadlines.connect_s, read=None, write=30.0, pool=deadlines.pool_s),
        limits=httpx2.Limits(max_connections=max_connections, max_keepalive_connections=64, keepalive_expiry=30.0),
        verify=trust,
        follow_redirects=False,
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        event_hooks={"response": list(hooks)},
    )


def fits_a_header(key: str) -> bool:
    """Whether a header can carry this key."""
    return key.isascii() and key.isprintable() and " " not in key
