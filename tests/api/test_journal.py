from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.api.batch.journal import Journal, Outcome
from serve_app.api.blobs import Blobs
from serve_app.protocol import Usage

ROW = b'{"id":"x 1 2 3 4 5 6"}'


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path)


def begun(blobs: Blobs, token: str) -> Journal:
    journal = Journal(blobs, "batch_1")
    journal.recover(token)
    return journal


def test_what_was_noted_is_known_to_the_next_owner(blobs: Blobs) -> None:
    first = begun(blobs, "a")
    first.note([Outcome(3, True, ROW, Usage(1, 2, 3, 4)), Outcome(7, False, b'{"e":1}')])
    first.note([Outcome(4, True, ROW, Usage(1, 1))])
    second = begun(blobs, "b")
    assert [number in second for number in (3, 4, 5, 7)] == [True, True, False, True]
    assert (second.completed, second.failed, second.usage) == (2, 1, Usage(2, 3, 3, 4))
    second.note([Outcome(5, True, b'{"five":5}')])
    for journal in (second, begun(blobs, "c")):
        assert journal.row(3) == (True, ROW)
        assert journal.row(7) == (False, b'{"e":1}')
        assert journal.row(5) == (True, b'{"five":5}')
        assert journal.row(6) is None


def test_a_line_that_two_owners_answered_counts_once(blobs: Blobs) -> None:
    first, second = begun(blobs, "a"), begun(blobs, "b")
    for journal, row in ((first, b'{"by":"first"}'), (second, b'{"by":"second"}')):
        journal.note([Outcome(1, True, row, Usage(5, 5))])
    third = begun(blobs, "c")
    assert (third.row(1), third.completed, third.usage) == ((True, b'{"by":"first"}'), 1, Usage(5, 5))


@pytest.mark.parametrize("torn", range(1, 40))
def test_a_line_that_was_cut_in_the_middle_was_never_noted(blobs: Blobs, tmp_path: Path, torn: int) -> None:
    begun(blobs, "a").note([Outcome(1, True, ROW), Outcome(2, True, ROW)])
    path = tmp_path / "batch_1.a"
    whole = path.read_bytes()
    path.write_bytes(whole[:-torn])
    journal = begun(blobs, "b")
    missing = torn >= len(whole) - whole.index(b"\n") - 1
    assert 2 not in journal
    assert (1 in journal) or missing
    assert journal.completed == int(1 in journal)


def test_another_batch_is_another_journal_and_is_left_alone(blobs: Blobs, tmp_path: Path) -> None:
    begun(blobs, "a").note([Outcome(1, True, ROW)])
    other = Journal(blobs, "batch_12")
    other.recover("a")
    assert 1 not in other
    other.note([Outcome(1, False, ROW)])
    other.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["batch_1.a"]
