from __future__ import annotations

import pickle
from collections.abc import Sequence
from hashlib import sha256
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serve_app.api.admission import Admission, Tenant
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode

KEYS = ("sk-first-key", "sk-second-key")
LOOPBACK = ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"]
FOREIGN = ["10.0.0.7", "192.168.1.5", "8.8.8.8", "0.0.0.0", "::", "fe80::1%eth0", "::ffff:8.8.8.8", "2001:db8::1"]
UNREADABLE = ["", "localhost", "unknown", "127.0.0.1:80", "[::1]", "127.1", "0x7f000001", "2130706433", "127.0.0.1 x"]
HOST = "192.168.1.5"


def scope(
    *headers: tuple[str, str], peer: str | None = "127.0.0.1", server: str | None = "127.0.0.1"
) -> dict[str, Any]:
    return {
        "type": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        "client": (peer, 40000) if peer is not None else None,
        "server": (server, 8000) if server is not None else None,
    }


def admit(admission: Admission, asked: dict[str, Any]) -> Tenant:
    """Without an event loop: what is configured is known without waiting for anything."""
    with pytest.raises(StopIteration) as returned:
        admission.admit(asked).send(None)
    tenant: Tenant = returned.value.value
    return tenant


def refusal(admission: Admission, asked: dict[str, Any]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        admission.admit(asked).send(None)
    return caught.value


def forwarded(*lines: str) -> Sequence[tuple[str, str]]:
    return [("x-forwarded-for", line) for line in lines]


# --- with keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", "Bearer {}"),
        ("authorization", "bearer   {} "),
        ("x-api-key", "{}"),
        ("api-key", "{}"),
    ],
)
def test_every_usual_header_may_carry_the_key(header: tuple[str, str]) -> None:
    name, pattern = header
    tenant = admit(Admission(KEYS), scope((name, pattern.format(KEYS[1])), peer="8.8.8.8"))
    assert tenant.id == sha256(KEYS[1].encode()).hexdigest()[:16]


def test_two_keys_are_two_tenants() -> None:
    first, second = (admit(Admission(KEYS), scope(("api-key", key))) for key in KEYS)
    assert first != second


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", "Bearer sk-first-kez"),
        ("authorization", "Bearer sk-first"),
        ("authorization", "Bearer"),
        ("authorization", "Bearer "),
        ("authorization", "Basic sk-first-key"),
        ("authorization", "sk-first-key"),
        ("authorization", ""),
        ("authorization", "Bearer \xff\xfe"),
        ("x-api-key", ""),
        ("api-key", "SK-FIRST-KEY"),
    ],
)
def test_every_wrong_key_is_refused_in_the_same_words(header: tuple[str, str]) -> None:
    error = refusal(Admission(KEYS), scope(header))
    assert error.failed == refusal(Admission(KEYS), scope(("x-api-key", "nonsense"))).failed
    assert error.failed.code is FailureCode.UNAUTHENTICATED


def test_a_missing_key_is_refused_with_how_to_send_one() -> None:
    error = refusal(Admission(KEYS), scope())
    assert error.failed.code is FailureCode.UNAUTHENTICATED
    assert "Authorization: Bearer" in error.failed.message


def test_with_a_key_configured_loopback_needs_it_too() -> None:
    for behind_proxy in (False, True):
        refusal(Admission(KEYS, behind_proxy=behind_proxy), scope(*forwarded("127.0.0.1")))


def test_keys_are_not_kept() -> None:
    assert b"sk-first-key" not in pickle.dumps(Admission(KEYS))


@pytest.mark.parametrize("key", ["", " ", "sk-x ", "\n"])
def test_an_empty_key_cannot_be_configured(key: str) -> None:
    with pytest.raises(ValueError, match="API key"):
        Admission((key,))


# --- without keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", LOOPBACK)
def test_without_a_key_this_machine_is_admitted(peer: str) -> None:
    assert admit(Admission(), scope(peer=peer)).id == "local"


@pytest.mark.parametrize("peer", [*FOREIGN, *UNREADABLE, None])
@pytest.mark.parametrize("behind_proxy", [False, True])
def test_without_a_key_nobody_else_is_whatever_they_say(peer: str | None, behind_proxy: bool) -> None:
    asked = scope(*forwarded("127.0.0.1"), ("authorization", "Bearer anything"), peer=peer, server="127.0.0.1")
    error = refusal(Admission(behind_proxy=behind_proxy), asked)
    assert error.failed.code is FailureCode.REMOTE_WITHOUT_KEY
    assert "LLM_BACKEND_API_KEY" in error.failed.message


@pytest.mark.parametrize("origin", LOOPBACK)
@pytest.mark.parametrize("peer", ["127.0.0.1", HOST])
def test_behind_the_proxy_its_own_last_word_counts(origin: str, peer: str) -> None:
    asked = scope(*forwarded("8.8.8.8, 10.0.0.1", f"9.9.9.9, {origin}"), peer=peer, server=HOST)
    assert admit(Admission(behind_proxy=True), asked).id == "local"


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("",),
        ("127.0.0.1,",),
        ("127.0.0.1", ""),
        ("127.0.0.1", "8.8.8.8"),
        ("8.8.8.8",),
        *((u,) for u in UNREADABLE),
    ],
)
def test_behind_the_proxy_a_missing_or_foreign_last_word_is_refused(lines: tuple[str, ...]) -> None:
    refusal(Admission(behind_proxy=True), scope(*forwarded(*lines)))


def test_two_unknown_addresses_are_not_the_same_host() -> None:
    refusal(Admission(behind_proxy=True), scope(*forwarded("127.0.0.1"), peer=None, server=None))


addresses = st.one_of(st.ip_addresses().map(str), st.sampled_from(LOOPBACK + FOREIGN))
spoofed = st.lists(st.one_of(addresses, st.sampled_from(UNREADABLE)), max_size=4).map(", ".join)


@given(claims=st.lists(spoofed, max_size=4), sender=addresses, appended_to_last=st.booleans())
def test_no_forged_header_makes_a_remote_sender_local(claims: list[str], sender: str, appended_to_last: bool) -> None:
    assume(not _is_loopback(sender))
    lines = [*claims[:-1], f"{claims[-1]}, {sender}"] if claims and appended_to_last else [*claims, sender]
    refusal(Admission(behind_proxy=True), scope(*forwarded(*lines), server=HOST))


@given(claims=st.lists(spoofed, max_size=4), peer=addresses)
def test_no_forged_header_helps_where_there_is_no_proxy(claims: list[str], peer: str) -> None:
    assume(not _is_loopback(peer))
    refusal(Admission(), scope(*forwarded(*claims), peer=peer, server=peer))


@given(claims=st.lists(spoofed, max_size=4), peer=addresses)
def test_only_the_proxy_of_this_host_is_believed(claims: list[str], peer: str) -> None:
    assume(not _is_loopback(peer) and peer != HOST)
    refusal(Admission(behind_proxy=True), scope(*forwarded(*claims, "127.0.0.1"), peer=peer, server=HOST))


def _is_loopback(text: str) -> bool:
    address = ip_address(text)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


@pytest.mark.parametrize(
    "header",
    [
        ("host", "evil.example"),
        ("host", "evil.example:8000"),
        ("host", "127.0.0.1.evil.example"),
        ("host", "8.8.8.8:8000"),
        ("host", "[2001:db8::1]"),
        ("host", "[broken"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", ""),
    ],
)
def test_without_a_key_a_page_of_another_site_cannot_use_this_machine_s_browser(header: tuple[str, str]) -> None:
    refusal(Admission(), scope(header))
    assert admit(Admission(KEYS), scope(header, ("api-key", KEYS[0])))


@pytest.mark.parametrize("name", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "llm-backend"])
def test_without_a_key_this_machine_may_go_by_any_of_its_own_names(name: str) -> None:
    assert admit(Admission(), scope(("host", name), ("origin", f"http://{name}")))
