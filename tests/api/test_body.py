from __future__ import annotations

import time
from contextlib import suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.body import parse
from serve_app.api.limits import Limits
from serve_app.errors import RequestError, envelope, status
from serve_app.protocol import Json

MIB_8 = 8 * 1024 * 1024


def refused(raw: bytes) -> str | None:
    with pytest.raises(RequestError) as caught:
        parse(raw, Limits())
    assert status(caught.value.failed) == 400
    code: str | None = envelope(caught.value.failed)["error"]["code"]
    return code


def nested(levels: int) -> bytes:
    return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"NaN", b'{"a":NaN}', b'{"a":1e999}', b'{"a":-Infinity}', b'{"a":"\\ud800"}', b'{"a":"\xff"}']
    + ['{"a":1}'.encode(encoding) for encoding in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig")]
    + [b'{"a":1}{"b":2}', b'{"a":\x00}', b"[" * 100_000],
)
def test_what_is_not_plain_json_is_refused(raw: bytes) -> None:
    assert refused(raw) == "invalid_json"


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"a"', b"null", b"true"])
def test_a_body_must_be_an_object(raw: bytes) -> None:
    assert refused(raw) == "invalid_type"


def test_depth_is_bounded_to_the_level() -> None:
    assert parse(nested(32), Limits())
    assert refused(nested(33)) == "invalid_value"
    assert refused(b'{"a":' + b"[" * 32 + b"]" * 32 + b"}") == "invalid_value"


@pytest.mark.parametrize(("raw", "fine"), [(rb'"\u0000"', False), (rb'"\\u0000"', True), (rb'"\\\u0000"', False)])
def test_a_nul_is_refused_and_its_spelling_is_not(raw: bytes, fine: bool) -> None:
    if fine:
        assert parse(b'{"a":' + raw + b"}", Limits())
    else:
        assert refused(b'{"a":' + raw + b"}") == "invalid_value"


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"0,", b'"",', b'{"":{}},', b'{"a":0},', b'"[[[[\\"",[],'])
def test_eight_mib_of_values_are_refused_in_no_time(piece: bytes) -> None:
    raw = b'{"a":[' + piece * (MIB_8 // len(piece)) + b"0]}"
    took = []
    for _ in range(3):
        began = time.thread_time()
        assert refused(raw) == "invalid_value"
        took.append(time.thread_time() - began)
    assert min(took) < 0.3  # of this thread: 0.03 s on a quiet machine; parsing some of these takes more than a second


def test_a_long_text_full_of_brackets_is_no_bomb() -> None:
    text = 'if (a[0]) { return "[1,2]\\\\"; }\n' * 30_000
    assert parse(orjson.dumps({"a": text}), Limits()) == {"a": text}


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_every_plain_object_is_read_as_it_is(value: Json) -> None:
    assert parse(orjson.dumps(value), Limits()) == value


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(raw: bytes) -> None:
    with suppress(RequestError):
        assert isinstance(parse(raw, Limits()), dict)
