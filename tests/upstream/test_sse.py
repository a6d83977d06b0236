"""The parser reads a stream the same however it is cut into pieces."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.upstream.sse import EventTooLong, SseParser

LIMIT = 1024 * 1024
line_end = st.sampled_from(["\n", "\r\n", "\r"])
text = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
noise = st.one_of(
    text.map(lambda t: ":" + t),
    st.sampled_from(["event: x", "id: 7", "retry: 10", "event", "unknown: y", "dat: no", "data-set: no", "database"]),
)


@st.composite
def legal_streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A stream and the data of its events."""
    written = draw(st.sampled_from(["", "\ufeff"]))
    expected = []
    for _ in range(draw(st.integers(0, 5))):
        lines = draw(st.lists(st.one_of(noise, text.map(lambda t: ("data", t))), max_size=5))
        data = []
        for line in lines:
            if isinstance(line, tuple):
                space = " " if line[1].startswith(" ") else draw(st.sampled_from(["", " "]))
                data.append(line[1])
                line = f"data:{space}{line[1]}"
            written += line + draw(line_end)
        written += draw(line_end) if not lines or not written.endswith("\r") else draw(st.sampled_from(["\r\n", "\r"]))
        if data:
            expected.append("\n".join(data).encode())
    return written.encode(), expected


def parse(pieces: list[bytes], limit: int = LIMIT) -> list[bytes]:
    parser = SseParser(limit)
    return [event for piece in pieces for event in parser.push(piece)]


@settings(max_examples=400, deadline=None)
@given(legal_streams(), st.data())
def test_every_chunking_of_a_legal_stream_gives_the_same_events(
    stream: tuple[bytes, list[bytes]], data: st.DataObject
) -> None:
    written, expected = stream
    cuts = sorted(data.draw(st.sets(st.integers(0, len(written)), max_size=8)))
    pieces = [written[a:b] for a, b in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    assert parse(pieces) == expected
    assert parse([written]) == expected
    assert parse([bytes([byte]) for byte in written]) == expected


@settings(max_examples=200, deadline=None)
@given(legal_streams(), st.data())
def test_a_truncated_stream_gives_no_spurious_event(stream: tuple[bytes, list[bytes]], data: st.DataObject) -> None:
    written, expected = stream
    events = parse([written[: data.draw(st.integers(0, len(written)))]])
    assert events == expected[: len(events)]


def test_a_carriage_return_ends_an_event_without_waiting_for_more() -> None:
    parser = SseParser(LIMIT)
    assert parser.push(b"data: a\r\n\r") == [b"a"]
    assert parser.push(b"\ndata: b\r\n\r\n") == [b"b"]


def test_a_large_event_in_single_bytes_takes_linear_time() -> None:
    began = time.process_time()
    assert parse([b"data: ", *[b"x"] * 300_000, b"\n\n"]) == [b"x" * 300_000]
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize("endless", [b"data: " + b"x" * 100, b": comment " + b"x" * 100, b"data: x\n" * 20])
def test_an_event_larger_than_the_limit_is_refused_whole_or_in_pieces(endless: bytes) -> None:
    for pieces in ([endless + b"\n\n"], [bytes([byte]) for byte in endless]):
        with pytest.raises(EventTooLong):
            parse(pieces, limit=64)
