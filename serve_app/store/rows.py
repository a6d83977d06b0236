"""Protocol values -> rows. Pure: no database, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from serve_app.protocol import Closed, Json, Opened, ResponseTurn, Turn, Usage

Row = dict[str, Any]
Key = tuple[str, str]
"""A turn's: completion id, tenant."""


def encode(value: Any) -> bytes:
    """Compact JSON that ``decode`` turns back into an equal value, of any JSON a client can send."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def decode(data: bytes) -> Any:
    return json.loads(data)


def chain(tenant: str, messages: Sequence[Json], parent: bytes | None = None) -> list[Row]:
    """Rows of ``messages``, first to last. The same beginning gives the same rows, within one tenant only."""
    salt = _salt(tenant)
    rows: list[Row] = []
    for message in messages:
        body = encode(message)
        name = sha256((parent or bytes(32)) + salt + body).digest()
        rows.append({"hash": name, "parent": parent, "body": body, "item": None})
        parent = name
    return rows


def items(tenant: str, given: Sequence[Json], parent: bytes | None) -> list[Row]:
    """Rows of items, which can be found by their ``id`` too."""
    rows = chain(tenant, given, parent)
    return [{**row, "item": item_key(tenant, item["id"])} for row, item in zip(rows, given, strict=True)]


def tip_of(rows: Sequence[Row], parent: bytes | None) -> bytes | None:
    """Where a chain that goes on from ``parent`` leads."""
    tip: bytes | None = rows[-1]["hash"] if rows else parent
    return tip


def item_key(tenant: str, item_id: str) -> bytes:
    return sha256(_salt(tenant) + item_id.encode("utf-8", "surrogatepass")).digest()


def _salt(tenant: str) -> bytes:
    return sha256(tenant.encode("utf-8", "surrogatepass")).digest()


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


class KeptResponse:
    """An entry of a response, in bytes: making them is where what is not JSON shows."""

    def __init__(self, entry: Opened | Closed, turn: ResponseTurn) -> None:
        self.closed = entry if isinstance(entry, Closed) else None
        self.opened = entry.opened if isinstance(entry, Closed) else entry
        completion = self.closed.completion if self.closed else None
        self.turn = turn
        self.key: Key = (turn.response_id, self.opened.tenant)
        self.given = items(self.opened.tenant, turn.items, turn.base)
        self.given_tip = tip_of(self.given, turn.base)
        self.status: str | None = completion["status"] if completion else None
        self.said: list[Json] = completion["output"] if completion else []
        self.output = items(self.opened.tenant, self.said, self.given_tip)
        self.tip = tip_of(self.output, self.given_tip)
        self.response = encode(completion or turn.response)
        self.request = None if turn.request is None else encode(turn.request)

    @property
    def abandoned(self) -> bool:
        """It ended, and there is nothing to keep of it."""
        return self.closed is not None and self.closed.completion is None

    @property
    def ending(self) -> Row:
        """What ending it changes, and of which it is."""
        response_id, tenant = self.key
        return {"response_id": response_id, "tenant": tenant, "response": self.response, "tip": self.tip}

    @property
    def row(self) -> Row:
        """As it begins."""
        return {
            "response_id": self.turn.response_id,
            "tenant": self.opened.tenant,
            "given": None if self.abandoned else self.given_tip,
            "conversation": self.turn.conversation,
            "status": "open",
            "response": self.response,
            "background": self.turn.background,
            "request": self.request,
            "attempts": 1,
            "writer": self.opened.writer,
        }

    def size(self) -> int:
        """About how many bytes of memory it holds."""
        bodies = sum(len(row["body"]) for row in (*self.given, *self.output))
        return bodies + len(self.response) + len(self.request or b"")


@dataclass(frozen=True, slots=True)
class Ledger:
    """Entries as rows, at most one per key: what closed an entry stands before what opened it, the first before later.

    ``openers`` are the writers that opened something.
    """

    usage: dict[str, Row] = field(default_factory=dict)
    turns: dict[Key, StoredTurn] = field(default_factory=dict)
    responses: dict[Key, KeptResponse] = field(default_factory=dict)
    openers: set[str] = field(default_factory=set)

    def add(self, entry: Opened | Closed) -> None:
        opened = entry.opened if isinstance(entry, Closed) else entry
        self._put_usage(_usage_row(entry))
        if isinstance(opened.turn, Turn):
            self._put_turn(_stored_turn(entry, opened.turn))
        elif opened.turn is not None:
            self._put_response(KeptResponse(entry, opened.turn))
        if opened is entry:
            self.openers.add(opened.writer)

    def merge(self, other: Ledger) -> None:
        self.openers.update(other.openers)
        for row in other.usage.values():
            self._put_usage(row)
        for turn in other.turns.values():
            self._put_turn(turn)
        for response in other.responses.values():
            self._put_response(response)

    def size(self) -> int:
        """About how many bytes of memory it holds."""
        bodies = sum(len(row["body"]) for turn in self.turns.values() for row in turn.chain)
        completions = sum(len(turn.row["completion"] or b"") for turn in self.turns.values())
        responses = sum(response.size() for response in self.responses.values())
        return bodies + completions + responses + 1024 * len(self.usage)

    def _put_usage(self, row: Row) -> None:
        known = self.usage.get(row["entry_id"])
        if known is None or known["status"] == "in_progress":
            self.usage[row["entry_id"]] = row

    def _put_turn(self, turn: StoredTurn) -> None:
        known = self.turns.get(turn.key)
        if known is None or known.row["status"] == "in_progress":
            self.turns[turn.key] = turn

    def _put_response(self, response: KeptResponse) -> None:
        known = self.responses.get(response.key)
        if known is None or known.closed is None:
            self.responses[response.key] = response


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
