"""TextAssembler: however the bytes are cut into tokens, the text is the same, and nothing is taken back."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from serve_app.engine.text import TextAssembler
from serve_app.protocol import TokenLogprob

FAMILY = "👨‍👩‍👧‍👦"
CORPUS = [
    f"a {FAMILY} b {FAMILY}{FAMILY}",
    "e\u0301 n\u0303 Z\u0351\u036b\u0343 combining",
    "שלום \u202eabc\u202c مرحبا",
    "漢字かな交じり文。한국어",
    "flags 🇩🇪🇫🇷 skin 👍🏽 zwj 🏳️‍🌈",
    "plain text with STOP and ST and STOPS",
    "\u00e9\u00e9\u00e9\ue000\uffff\U0010ffff",
    "",
]
STOPS = [
    (),
    ("STOP",),
    ("👩",),
    (FAMILY,),
    ("字か", "STOPS", "STOP"),
    ("\u0301",),
    (" b", "b "),
    ("aba", "ab"),
    ("\u202e",),
]

texts = st.one_of(st.sampled_from(CORPUS), st.text(alphabet="ab é👩‍漢", max_size=24))
stops = st.one_of(st.sampled_from(STOPS), st.lists(st.text(alphabet="ab é👩", min_size=1, max_size=3), max_size=3))


def reference(data: bytes, stop: tuple[str, ...]) -> str:
    """Decode, then cut before the stop string that is complete first (the longest of those that end together)."""
    text = data.decode("utf-8", "replace")
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    return text[: min(ends)[1]] if ends else text


def cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(borders)]


def run(pieces: list[bytes], stop: tuple[str, ...]) -> tuple[list[str], list[TokenLogprob]]:
    assembler = TextAssembler(stop)
    parts: list[str] = []
    entries: list[TokenLogprob] = []
    for piece in pieces:
        text, known = assembler.push(piece, TokenLogprob(piece.decode("utf-8", "replace"), -1.0, piece))
        parts.append(text)
        entries += known
        if assembler.stopped:
            break
    text, known = assembler.finish()
    return [*parts, text], entries + list(known)


@settings(max_examples=500, deadline=None)
@given(texts, stops, st.lists(st.integers(0, 200), max_size=40))
@example("ab", ("ab",), [])
def test_every_split_gives_the_reference_and_every_delta_is_whole(text, stop, places) -> None:
    data, stop = text.encode(), tuple(stop)
    parts, entries = run(cut(data, places), stop)
    assert "".join(parts) == reference(data, stop)
    assert all("\ufffd" not in part for part in parts)
    assert b"".join(entry.data for entry in entries).decode() == "".join(parts)
    so_far = ""
    for part in parts:  # what was emitted is a beginning of the final text: nothing is retracted
        so_far += part
        assert reference(data, stop).startswith(so_far)


def test_every_single_and_double_cut_of_the_corpus_gives_the_reference() -> None:
    for text in CORPUS:
        data = text.encode()
        for stop in STOPS:
            expected = reference(data, stop)
            assert "".join(run([bytes([byte]) for byte in data], stop)[0]) == expected
            for at in range(len(data) + 1):
                assert "".join(run([data[:at], data[at:]], stop)[0]) == expected


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=24), stops, st.lists(st.integers(0, 30), max_size=20))
def test_bytes_that_are_no_text_become_replacement_characters_like_in_one_piece(data, stop, places) -> None:
    parts, entries = run(cut(data, places), tuple(stop))
    assert "".join(parts) == reference(data, tuple(stop))
    assert b"".join(entry.data for entry in entries).decode("utf-8", "replace") == "".join(parts)


def test_a_stop_inside_a_token_cuts_its_logprob_entry() -> None:
    parts, entries = run([b"one", b" twoSTOPthree"], ("STOP",))
    assert "".join(parts) == "one two"
    assert [(entry.token, entry.data) for entry in entries] == [("one", b"one"), (" two", b" two")]


def test_half_a_stop_string_at_the_end_is_text_after_all() -> None:
    assert "".join(run([b"abc ST"], ("STOP",))[0]) == "abc ST"


def test_text_that_cannot_begin_a_stop_is_not_held_back() -> None:
    assembler = TextAssembler(("STOP",))
    assert assembler.push(b"hello S")[0] == "hello "
    assert assembler.push(b"he")[0] == "She"


def test_half_an_emoji_at_the_end_of_a_generation_is_one_replacement_character() -> None:
    assert "".join(run(["a👩".encode()[:-1]], ())[0]) == "a\ufffd"


def test_nothing_comes_after_a_stop() -> None:
    assembler = TextAssembler(("x",))
    assert assembler.push(b"ax")[0] == "a"
    assert assembler.stopped
    assert assembler.push(b"more") == ("", ())
    assert assembler.finish() == ("", ())
