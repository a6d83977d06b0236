"""One entry on its way to the store, and the rhythm of the way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from serve_app.protocol import Closed, Opened


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often the background work happens, how soon a failed write is tried again, how long a call may take."""

    beat_s: float = 5.0
    reap_s: float = 10.0
    reap_older_than_s: float = 20.0
    first_retry_s: float = 0.05
    last_retry_s: float = 1.0
    call_s: float = 10.0
    stop_s: float = 5.0
    linger_s: float = 0.1
    """How long spooled entries are gathered: a short request then costs one row written once, in a large commit."""


@dataclass(slots=True, eq=False)
class Item:
    """``stored`` resolves once: True when durable, False when the store rejects the entry. ``since_s``: loop time.

    ``tried``: it was sent to the store at least once; whatever came back, it may be in there. ``refused``: the store is
    well and does not take it.
    """

    entry: Opened | Closed
    stored: asyncio.Future[bool]
    since_s: float
    tried: bool = False
    refused: bool = False

    @property
    def opened(self) -> Opened:
        return self.entry if isinstance(self.entry, Opened) else self.entry.opened


async def durable(item: Item, timeout_s: float) -> bool:
    """Waits for an item without owning it: neither the time limit nor a cancelled caller takes it from the ledger."""
    done, _ = await asyncio.wait({item.stored}, timeout=timeout_s)
    return bool(done) and item.stored.result()
