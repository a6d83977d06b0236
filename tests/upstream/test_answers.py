"""An answer is told truthfully: it ends well only if all of it came."""

from __future__ import annotations

import json

import pytest

from serve_app.protocol import Done, Failed, FailureCode, Relayed, Started, Usage
from serve_app.upstream.answers import StreamAnswer, WholeAnswer, usage_of
from tests.upstream.driving import check_contract, chunks, code, failure
from tests.upstream_server import USAGE, WHOLE, chat_chunk, chat_events, event

DONE = b"data: [DONE]\n\n"
BEGIN = {"index": 0, "delta": {"content": "a"}, "finish_reason": None}
END = {"index": 0, "delta": {}, "finish_reason": "stop"}


def complained(error: object) -> Failed:
    return Failed(FailureCode.UPSTREAM_ERROR, "told", detail="why")


def streamed(*pieces: bytes, hide_usage: bool = False) -> list[object]:
    answer = StreamAnswer(complained, hide_usage)
    events = []
    for piece in pieces:
        events += answer.feed(piece)
        if answer.over:
            return events
    return events + answer.end()


def test_a_golden_stream_passes_byte_for_byte() -> None:
    events = streamed(*chat_events("é", "🎉", choices=2))
    assert check_contract(events) == Done(Usage(9, 4, 2, 1))
    assert chunks(events) == [data[6:-2] for data in chat_events("é", "🎉", choices=2)[:-1]]


def test_every_truncation_of_a_stream_ends_in_exactly_one_failure() -> None:
    recorded = b"".join(chat_events("Hel", "ló", choices=2))
    for cut in range(len(recorded) - 1):
        assert code(streamed(recorded[:cut])) is FailureCode.UPSTREAM_TRUNCATED
    assert isinstance(streamed(recorded)[-1], Done)


def test_done_before_every_choice_has_finished_is_a_truncation() -> None:
    two = event(chat_chunk([BEGIN, BEGIN | {"index": 1}]))
    assert code(streamed(two, event(chat_chunk([END])), DONE)) is FailureCode.UPSTREAM_TRUNCATED
    assert code(streamed(event(chat_chunk([], usage=USAGE)), DONE)) is FailureCode.UPSTREAM_TRUNCATED
    assert code(streamed(DONE)) is FailureCode.UPSTREAM_TRUNCATED


@pytest.mark.parametrize(
    "bad", [b"{", b"[]", b"3", b"null", b'{"choices":3}', b'{"choices":[1]}', b'{"choices":[{"index":"0"}]}', b"\xff"]
)
def test_a_malformed_event_is_a_protocol_failure_after_what_was_good(bad: bytes) -> None:
    events = streamed(event(chat_chunk([BEGIN])) + b"data: " + bad + b"\n\n" + event(chat_chunk([END])) + DONE)
    assert code(events) is FailureCode.UPSTREAM_PROTOCOL
    assert len(chunks(events)) == 1


def test_an_error_event_ends_the_stream_and_keeps_the_usage_so_far() -> None:
    events = streamed(event(chat_chunk([BEGIN], usage=USAGE)), event({"error": {"message": "x"}}), DONE)
    assert failure(events) == Failed(FailureCode.UPSTREAM_ERROR, "told", detail="why", usage=Usage(9, 4, 2, 1))
    assert isinstance(streamed(event({"error": "x"}))[0], Failed)


def test_hidden_usage_leaves_no_usage_chunk_and_no_usage_key() -> None:
    everywhere = chat_chunk([BEGIN], usage=USAGE)
    events = streamed(event(everywhere), *chat_events("a"), hide_usage=True)
    assert check_contract(events) == Done(Usage(9, 4, 2, 1))
    parsed = [json.loads(data) for data in chunks(events)]
    assert len(parsed) == 4
    assert all("usage" not in chunk and chunk["choices"] for chunk in parsed)
    del everywhere["usage"]
    assert parsed[0] == everywhere


def test_a_chunk_without_usage_passes_untouched_even_when_usage_is_hidden() -> None:
    chunk = b'{ "choices": [{"index":0,"delta":{},"finish_reason":"stop"}], "x": 1.50 }'
    assert chunks(streamed(b"data: " + chunk + b"\n\n" + DONE, hide_usage=True)) == [chunk]


def test_a_chunk_over_several_lines_is_passed_on_as_one() -> None:
    written = json.dumps(chat_chunk([END]), indent=1).encode()
    events = streamed(b"data: " + written.replace(b"\n", b"\ndata: ") + b"\n\n" + DONE)
    (data,) = chunks(events)
    assert b"\n" not in data
    assert json.loads(data) == chat_chunk([END])


def test_empty_events_and_comments_are_no_answer() -> None:
    assert streamed(b": ping\n\ndata:\n\ndata:  \n\n")[0] == streamed()[0]


def test_an_event_of_more_than_a_mebibyte_is_a_protocol_failure() -> None:
    large = event(chat_chunk([BEGIN | {"delta": {"content": "x" * 1024 * 1024}}]))
    assert code(streamed(large)) is FailureCode.UPSTREAM_PROTOCOL
    assert code(streamed(*[large[i : i + 65536] for i in range(0, len(large), 65536)])) is FailureCode.UPSTREAM_PROTOCOL


def test_a_whole_body_passes_byte_for_byte() -> None:
    answer = WholeAnswer(complained)
    events = answer.feed(WHOLE[:10]) + answer.feed(WHOLE[10:]) + answer.end()
    assert events == [Started(), Relayed(WHOLE), Done(Usage(9, 4, 2, 1))]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", WHOLE[:-1]])
def test_a_body_that_is_no_json_object_is_a_protocol_failure(body: bytes) -> None:
    answer = WholeAnswer(complained)
    assert code(answer.feed(body) + answer.end()) is FailureCode.UPSTREAM_PROTOCOL


def test_an_error_in_a_body_with_status_200_is_an_error() -> None:
    answer = WholeAnswer(complained)
    assert failure(answer.feed(b'{"error":{"message":"x"}}') + answer.end()).detail == "why"


def test_a_body_of_more_than_32_mebibytes_is_a_protocol_failure() -> None:
    answer = WholeAnswer(complained)
    events = answer.feed(b"x") + answer.feed(b"x" * 32 * 1024 * 1024)
    assert answer.over
    assert code(events) is FailureCode.UPSTREAM_PROTOCOL


@pytest.mark.parametrize("odd", [None, 3, "x", {"prompt_tokens": "9"}, {"prompt_tokens": -1}, {"prompt_tokens": True}])
def test_odd_usage_counts_nothing(odd: object) -> None:
    assert usage_of(odd) == Usage()
