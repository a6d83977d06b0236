"""``make bench``: this project beside llama_cpp.server, and its proxy beside the bare upstream, interleaved in one run.

Every figure is a ratio of two servers measured in turn within seconds of each other, several pairs, the median quoted
with the spread: on a machine whose speed drifts, absolute figures mean little. Both servers are up all the time; the
one that is not measured idles.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.load import Round, closed_loop, crowd
from bench.servers import bare_upstream, llama_cpp_server, ours
from tests.running import MODEL_FILE, ROOT

RESULTS = ROOT / "bench" / "results"
STREAMS = (1, 4, 16)
MAX_TOKENS = 64
_TOPICS = ("a lighthouse", "two robots", "the moon", "a lost key", "an old map", "a clever fox", "winter", "a train")

Pair = dict[str, list[float]]


def _bodies(n: int, pair: int) -> list[dict[str, Any]]:
    """Different prompts for every user and every pair: no server profits from what it has seen. Greedy, so that both
    say nearly the same."""
    said = [f"Write a long story number {pair * 100 + user} about {_TOPICS[user % 8]}." for user in range(n)]
    return [
        {"model": "llama", "messages": [{"role": "user", "content": text}], "max_tokens": MAX_TOKENS, "temperature": 0}
        for text in said
    ]


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


def _ratios(mine: list[float], theirs: list[float]) -> list[float]:
    return [a / b for a, b in zip(mine, theirs, strict=True)]


def compare_streams(mine: str, theirs: str, pairs: int, note: Callable[[str], None]) -> list[dict[str, Any]]:
    """tokens/s and time to first token at 1, 4 and 16 streams."""
    rows = []
    for n in STREAMS:
        rounds: list[tuple[Round, Round]] = []
        for pair in range(pairs + 1):  # the first pair warms both up
            note(f"{n} streams, pair {pair} of {pairs}")
            bodies = _bodies(n, pair)
            rounds.append((asyncio.run(crowd(mine, bodies)), asyncio.run(crowd(theirs, bodies))))
        rounds = rounds[1:]
        rows.append(
            {
                "streams": n,
                "ours_tokens_per_s": [a.tokens_per_s for a, _ in rounds],
                "theirs_tokens_per_s": [b.tokens_per_s for _, b in rounds],
                "ours_first_s": [a.first_s for a, _ in rounds],
                "theirs_first_s": [b.first_s for _, b in rounds],
            }
        )
    return rows


def compare_proxy(
    mine: str, bare: str, pairs: int, seconds: float, note: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Requests per second and latency through the proxy and straight to the upstream, 50-token answers."""
    rows = []
    for stream in (False, True):
        body = {"model": "cloud", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
        for n in (1, 8):
            rates = []
            for pair in range(pairs + 1):
                note(f"proxy, {n} clients, {'stream' if stream else 'whole'}, pair {pair} of {pairs}")
                rates.append(tuple(asyncio.run(closed_loop(url, body, n, seconds)) for url in (mine, bare)))
            rates = rates[1:]
            rows.append(
                {
                    "clients": n,
                    "stream": stream,
                    "ours_per_s": [a.per_s for a, _ in rates],
                    "bare_per_s": [b.per_s for _, b in rates],
                    "added_p50_ms": [1e3 * (a.p50_s - b.p50_s) for a, b in rates],
                }
            )
    return rows


def _stream_table(rows: list[dict[str, Any]]) -> Table:
    table = Table("streams", "ours tok/s", "llama_cpp.server tok/s", "ratio", "ours first token s", "theirs", "ratio")
    for row in rows:
        speed = _ratios(row["ours_tokens_per_s"], row["theirs_tokens_per_s"])
        first = _ratios(row["ours_first_s"], row["theirs_first_s"])
        table.add_row(
            str(row["streams"]),
            _median(row["ours_tokens_per_s"]),
            _median(row["theirs_tokens_per_s"]),
            _median(speed),
            _median(row["ours_first_s"]),
            _median(row["theirs_first_s"]),
            _median(first),
        )
    return table


def _proxy_table(rows: list[dict[str, Any]]) -> Table:
    table = Table("clients", "answer", "through ours /s", "bare upstream /s", "ratio", "added p50 ms")
    for row in rows:
        table.add_row(
            str(row["clients"]),
            "50-chunk stream" if row["stream"] else "whole",
            _median(row["ours_per_s"]),
            _median(row["bare_per_s"]),
            _median(_ratios(row["ours_per_s"], row["bare_per_s"])),
            _median(row["added_p50_ms"]),
        )
    return table


def _about(model: Path, threads: int, spins: str) -> dict[str, Any]:
    names = ("ray", "llama-cpp-python", "fastapi", "openai")
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "model": model.stem,
        "threads": threads,
        "peer": f"llama_cpp.server {version('llama-cpp-python')}, GOMP_SPINCOUNT={spins}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--model", type=Path, default=MODEL_FILE, help="GGUF file")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each closed loop")
    parser.add_argument("--peer-spins", default="300000", help="GOMP_SPINCOUNT of the peer (default: its best)")
    told = parser.parse_args()
    console = Console(width=150)
    with (
        tempfile.TemporaryDirectory() as folder,
        console.status("starting the servers …") as status,
        bare_upstream() as bare,
        ours(Path(folder), told.model, told.threads, bare) as graph,
        llama_cpp_server(told.model, told.threads, told.peer_spins) as theirs,
    ):
        mine = f"{graph.url}/v1"
        streams = compare_streams(mine, theirs, told.pairs, status.update)
        proxy = compare_proxy(mine, bare, told.pairs, told.seconds, status.update)
    about = _about(told.model, told.threads, told.peer_spins)
    console.print(about)
    console.print(_stream_table(streams), _proxy_table(proxy))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "first.json"
    path.write_text(json.dumps({"about": about, "streams": streams, "proxy": proxy}, indent=1) + "\n")
    console.print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
