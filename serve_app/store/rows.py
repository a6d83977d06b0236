"""Protocol values -> rows. Pure: no database, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from serve_app.protocol import Closed, Json, Opened, Turn, Usage

Row = dict[str, Any]
Key = tuple[str, str]
"""A turn's: completion id, tenant."""


def encode(value: Any) -> bytes:
    """Compact JSON that ``decode`` turns back into an equal value, of any JSON a client can send."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def decode(data: bytes) -> Any:
    return json.loads(data)


def chain(tenant: str, messages: Sequence[Json]) -> list[Row]:
    """Rows of ``messages``, first to last. The same beginning gives the same rows, within one tenant only."""
    salt = sha256(tenant.encode("utf-8", "surrogatepass")).digest()
    rows: list[Row] = []
    parent = None
    for message in messages:
        body = encode(message)
        name = sha256((parent or bytes(32)) + salt + body).digest()
        rows.append({"hash": name, "parent": parent, "body": body})
        parent = name
    return rows


def pairs(metadata: Mapping[str, str]) -> list[bytes]:
    """What ``labels`` holds of this metadata: one digest per pair, since an index takes no long values."""
    return [sha256(encode(item)).digest() for item in metadata.items()]


def completion_object(completion: bytes, metadata: bytes) -> Json:
    """What a client sees: the object as it was stored, with the metadata of now."""
    return {**decode(completion), "metadata": decode(metadata)}


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """One turn, its messages, and the labels it has if clients can see it."""

    row: Row
    chain: list[Row]
    pairs: list[bytes]

    @property
    def key(self) -> Key:
        return self.row["completion_id"], self.row["tenant"]


@dataclass(frozen=True, slots=True)
class Ledger:
    """Entries as rows, at most one per key: what closed an entry stands before what opened it, the first before later.

    ``openers`` are the writers that opened something.
    """

    usage: dict[str, Row] = field(default_factory=dict)
    turns: dict[Key, StoredTurn] = field(default_factory=dict)
    openers: set[str] = field(default_factory=set)

    def add(self, entry: Opened | Closed) -> None:
        opened = entry.opened if isinstance(entry, Closed) else entry
        self._put_usage(_usage_row(entry))
        if opened.turn is not None:
            self._put_turn(_stored_turn(entry, opened.turn))
        if opened is entry:
            self.openers.add(opened.writer)

    def merge(self, other: Ledger) -> None:
        self.openers.update(other.openers)
        for row in other.usage.values():
            self._put_usage(row)
        for turn in other.turns.values():
            self._put_turn(turn)

    def size(self) -> int:
        """About how many bytes of memory it holds."""
        bodies = sum(len(row["body"]) for turn in self.turns.values() for row in turn.chain)
        completions = sum(len(turn.row["completion"] or b"") for turn in self.turns.values())
        return bodies + completions + 1024 * len(self.usage)

    def _put_usage(self, row: Row) -> None:
        known = self.usage.get(row["entry_id"])
        if known is None or known["status"] == "in_progress":
            self.usage[row["entry_id"]] = row

    def _put_turn(self, turn: StoredTurn) -> None:
        known = self.turns.get(turn.key)
        if known is None or known.row["status"] == "in_progress":
            self.turns[turn.key] = turn


def ledger(entries: Iterable[Opened | Closed]) -> Ledger:
    result = Ledger()
    for entry in entries:
        result.add(entry)
    return result


def joined(ledgers: Iterable[Ledger]) -> Ledger:
    result = Ledger()
    for one in ledgers:
        result.merge(one)
    return result


def _usage_row(entry: Opened | Closed) -> Row:
    opened, closed = (entry.opened, entry) if isinstance(entry, Closed) else (entry, None)
    tokens = closed.usage if closed else Usage()
    return {
        "entry_id": opened.entry_id,
        "tenant": opened.tenant,
        "request_id": opened.request_id,
        "model": opened.model,
        "route": opened.route,
        "served_by": opened.served_by,
        "user": opened.user,
        "status": closed.status if closed else "in_progress",
        "prompt_tokens": tokens.prompt_tokens,
        "completion_tokens": tokens.completion_tokens,
        "cached_tokens": tokens.cached_tokens,
        "reasoning_tokens": tokens.reasoning_tokens,
        "started_s": opened.started_s,
        "duration_s": closed.duration_s if closed else None,
        "first_token_s": closed.first_token_s if closed else None,
        "failure": closed.failure if closed else None,
        "writer": opened.writer,
    }


def _stored_turn(entry: Opened | Closed, turn: Turn) -> StoredTurn:
    """A completion that brings metadata of its own (that it was cut, say) adds it to the client's."""
    opened, closed = (entry.opened, entry) if isinstance(entry, Closed) else (entry, None)
    completion = closed.completion if closed else None
    metadata = {**turn.metadata, **((completion or {}).get("metadata") or {})}
    messages = chain(opened.tenant, turn.messages)
    row = {
        "completion_id": turn.completion_id,
        "tenant": opened.tenant,
        "tip": messages[-1]["hash"] if messages else None,
        "model": opened.model,
        "created": opened.started_s,
        "status": closed.status if closed else "in_progress",
        "metadata": encode(metadata),
        "completion": None if completion is None else encode(completion),
        "writer": opened.writer,
    }
    return StoredTurn(row, messages, [] if completion is None else pairs(metadata))
