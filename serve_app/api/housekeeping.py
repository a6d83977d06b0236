"""What nobody owns any more leaves the disk: bytes of expired files, and what a crash left behind."""

from __future__ import annotations

import asyncio
import logging

from serve_app.api.blobs import Blobs
from serve_app.protocol import Store, StoreError

log = logging.getLogger(__name__)

_EVERY_S = 3600.0
_GRACE_S = 2 * 86_400.0
"""Younger bytes may belong to what is being written right now: a batch takes a day at most, and so do its journals."""

_GROUP = 500


async def keep_house(blobs: Blobs, store: Store) -> None:
    """Looks around once an hour, for as long as it is not cancelled."""
    while True:
        try:
            await sweep(blobs, store, _GRACE_S)
        except (OSError, StoreError):
            log.warning("files that nobody needs could not be removed now")
        await asyncio.sleep(_EVERY_S)


async def sweep(blobs: Blobs, store: Store, grace_s: float) -> int:
    """Removes what the database does not need and is older than ``grace_s``; how many blobs that were."""
    names = await asyncio.to_thread(lambda: list(blobs.older_than(grace_s)))
    removed = 0
    for start in range(0, len(names), _GROUP):
        for name in await store.files.unneeded(names[start : start + _GROUP]):
            await asyncio.to_thread(blobs.remove, name)
            removed += 1
    return removed
