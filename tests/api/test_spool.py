"""What a request used is not lost with the process that served it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api import spool as spool_module
from serve_app.api.ledger import Ledger
from serve_app.api.pending import Rhythm
from serve_app.api.spool import Spool
from serve_app.protocol import Closed, Opened, Usage
from tests.fakes import MemoryStore


def opened(entry_id: str, writer: str = "writer") -> Opened:
    return Opened(entry_id, writer, "tenant", "request", "model", "chat", "local", 1.5, user="ünï\u2028\0")


def closed(entry_id: str, writer: str = "writer") -> Closed:
    return Closed(opened(entry_id, writer), "completed", Usage(3, 2, 1), 0.25, first_token_s=0.125)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.jsonl"))


def test_what_a_dead_writer_left_is_found_whole_and_its_file_goes_when_it_is_settled(tmp_path: Path) -> None:
    first = Spool(tmp_path, "first")
    first.note(opened("a"))
    first.note(closed("a"))
    first.note(opened("b"))
    first.close()
    second = Spool(tmp_path, "second")
    assert second.recover() == [closed("a"), opened("b")]
    second.settle("a")
    assert files(tmp_path) == ["first-1.jsonl", "second-1.jsonl"]
    second.settle("b")
    assert files(tmp_path) == ["second-1.jsonl"]
    second.close()
    assert files(tmp_path) == []


def test_a_living_writers_file_is_left_alone(tmp_path: Path) -> None:
    first, second = Spool(tmp_path, "first"), Spool(tmp_path, "second")
    first.note(closed("a"))
    assert second.recover() == []
    first.close()
    second.close()


def test_a_line_that_was_cut_short_does_not_hide_the_lines_before_it(tmp_path: Path) -> None:
    whole = Spool(tmp_path, "first")
    whole.note(closed("a"))
    whole.close()
    with (tmp_path / "first-1.jsonl").open("ab") as file:
        file.write(b'{"unknown": 1}\nnot json\n{"opened": {"entry_id": "b", "wri')
    second = Spool(tmp_path, "second")
    assert second.recover() == [closed("a")]
    second.settle("a")
    second.close()


def test_files_stay_small_under_endless_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "_SEGMENT_BYTES", 2000)
    spool = Spool(tmp_path, "busy")
    spool.note(opened("long"))
    for number in range(200):  # there is always one more request before the last has ended
        spool.note(closed(str(number + 1)))
        spool.settle(str(number))
    assert len(files(tmp_path)) <= 3
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 10_000
    spool.close()


@given(st.lists(st.tuples(st.sampled_from("os"), st.integers(0, 5)), max_size=40))
def test_what_is_recovered_is_what_was_noted_and_not_settled(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), "w")
        waiting: dict[str, Opened | Closed] = {}
        for step, number in steps:
            if step == "o":
                waiting[str(number)] = closed(str(number))
                spool.note(waiting[str(number)])
            else:
                waiting.pop(str(number), None)
                spool.settle(str(number))
        spool.close()
        after = Spool(Path(folder), "x")
        recovered = {entry.opened.entry_id: entry for entry in after.recover() if isinstance(entry, Closed)}
        assert waiting.items() <= recovered.items()
        after.close()


async def test_closing_an_unstored_request_does_not_wait_for_the_database(tmp_path: Path) -> None:
    store = MemoryStore()
    ledger = Ledger(store, "writer", rhythm=Rhythm(linger_s=60), spool=Spool(tmp_path, "writer"))
    ledger.start()
    await ledger.open(opened("a"))
    assert await ledger.close(closed("a"))
    assert "a" not in store.rows
    await ledger.stop()
    assert store.rows["a"].closed == closed("a")
    assert files(tmp_path) == []


_WRITER = """
import asyncio, sys
from pathlib import Path
from serve_app.api.ledger import Ledger
from serve_app.api.pending import Rhythm
from serve_app.api.spool import Spool
from tests.api.test_spool import closed, opened
from tests.fakes import MemoryStore

async def main():
    ledger = Ledger(MemoryStore(), "dead", rhythm=Rhythm(linger_s=60), spool=Spool(Path(sys.argv[1]), "dead"))
    ledger.start()
    for number in range(10_000):
        await ledger.open(opened(str(number), "dead"))
        await ledger.close(closed(str(number), "dead"))
        print(number, flush=True)

asyncio.run(main())
"""


def killed_writer(folder: Path) -> list[str]:
    """Runs the writer, kills it in the middle; the ids of the requests that it said had ended."""
    command = [sys.executable, "-c", _WRITER, str(folder)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as writer:
        assert writer.stdout is not None
        ended = [next(writer.stdout).strip() for _ in range(50)]
        os.kill(writer.pid, signal.SIGKILL)
        return ended + [line.strip() for line in writer.stdout if line.endswith("\n")]


async def test_no_ended_request_is_lost_by_kill_9(tmp_path: Path) -> None:
    ended = await asyncio.to_thread(killed_writer, tmp_path)
    store = MemoryStore()
    ledger = Ledger(store, "next", rhythm=Rhythm(linger_s=0), spool=Spool(tmp_path, "next"))
    ledger.start()
    await store.until(lambda: all(entry_id in store.rows for entry_id in ended))
    assert [store.rows[entry_id].closed for entry_id in ended] == [closed(entry_id, "dead") for entry_id in ended]
    await ledger.stop()
    assert files(tmp_path) == []
