"""Which models an upstream offers, remembered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from serve_app.protocol import ModelCard

logger = logging.getLogger(__name__)

_RETRY_S = 10.0


class Catalogue:
    """Asks at most every ``ttl_s``, or 10 s after a failure; one question at a time; an old list rather than none.

    ``ask`` brings the body of ``GET /models`` and may raise anything; it gets ``timeout_s``.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], Awaitable[bytes]],
        owned_by: str,
        ttl_s: float,
        timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._ask = ask
        self._owned_by = owned_by
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._cards: tuple[ModelCard, ...] = ()
        self._ask_again_at: float | None = None
        self._asking = asyncio.Lock()

    async def cards(self) -> tuple[ModelCard, ...]:
        """What the upstream said last; never raises."""
        if self._is_due():
            async with self._asking:
                if self._is_due():
                    await self._refresh()
        return self._cards

    def _is_due(self) -> bool:
        return self._ask_again_at is None or self._clock() >= self._ask_again_at

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                self._cards = read_cards(await self._ask(), self._owned_by)
        except Exception as exc:
            logger.warning("upstream %s did not list its models: %s", self._name, type(exc).__name__)
            self._ask_again_at = self._clock() + _RETRY_S
        else:
            self._ask_again_at = self._clock() + self._ttl_s


def read_cards(body: bytes, owned_by: str) -> tuple[ModelCard, ...]:
    """OpenAI's list of models; entries without an id are left out. Raises ``ValueError`` when it is no such list."""
    listing = orjson.loads(body)
    data = listing.get("data") if isinstance(listing, dict) else None
    if not isinstance(data, list):
        raise ValueError("no list of models")
    return tuple(_card(entry, owned_by) for entry in data if isinstance(entry, dict) and _text(entry.get("id")))


def _card(entry: dict[str, Any], owned_by: str) -> ModelCard:
    return ModelCard(
        id=entry["id"],
        created=_whole(entry.get("created")) or 0,
        owned_by=_text(entry.get("owned_by")) or owned_by,
        context_length=_whole(entry.get("max_model_len")) or _whole(entry.get("context_length")),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None
