"""Which backend answers for which model id.

A local model's own id comes first, then an alias for one, then whatever an upstream says it has. An upstream that
cannot say what it has gets the ids nobody else knows: it knows better than we do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from serve_app.errors import RequestError
from serve_app.protocol import Backend, FailureCode, ModelCard, Upstream

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alias:
    """Another name for a local model. ``only_without_upstream``: it gives way as soon as an upstream is configured."""

    target: str
    only_without_upstream: bool = False


@dataclass(frozen=True, slots=True)
class UpstreamRoute:
    """``caller_key``: requests to it may carry the caller's own key.

    ``shared_account``: whoever may call may also use the objects in the upstream's account, which has one key for all.
    """

    backend: Upstream
    caller_key: bool = False
    shared_account: bool = True


@dataclass(frozen=True, slots=True)
class Target:
    """``id`` is the model as it was called, ``name`` is what its backend calls it."""

    id: str
    name: str
    backend: Backend
    served_by: Literal["local", "upstream"]
    caller_key: bool = False


def no_such_model(model: str) -> RequestError:
    """The refusal for an id that nothing answers to, in OpenAI's words."""
    text = f"The model `{model[:128]}` does not exist or you do not have access to it."
    return RequestError(FailureCode.MODEL_NOT_FOUND, text, param="model")


def not_allowed(model: str) -> RequestError:
    """The refusal for an id that the key may not call, whether or not anything answers to it."""
    text = f"This API key may not call the model `{model[:128]}`."
    return RequestError(FailureCode.MODEL_NOT_ALLOWED, text, param="model")


class Directory:
    """Fixed at construction. What the upstreams list is remembered for ``remember_s``: no call per request for it."""

    def __init__(
        self,
        local: Mapping[str, Backend],
        aliases: Mapping[str, Alias],
        upstreams: Mapping[str, UpstreamRoute],
        *,
        list_timeout_s: float = 3.0,
        remember_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, alias in aliases.items():
            if alias.target not in local:
                raise ValueError(f"alias {name!r} names {alias.target!r}, which is not a local model")
        self._local = dict(local)
        self._upstreams = dict(upstreams)
        self._aliases = {
            name: alias.target for name, alias in aliases.items() if not (alias.only_without_upstream and upstreams)
        }
        self._list_timeout_s = list_timeout_s
        self._remember_s = remember_s
        self._clock = clock
        self._remembered: dict[str, tuple[float, frozenset[str]]] = {}

    async def resolve(self, model: str) -> Target:
        """The backend for a model id; raises ``RequestError`` when there is none."""
        name = model if model in self._local else self._aliases.get(model)
        if name is not None:
            return Target(model, name, self._local[name], "local")
        _, route = await self._route(model)
        return Target(model, model, route.backend, "upstream", route.caller_key)

    async def forwarder(self, model: str | None, named: str | None = None) -> tuple[str, UpstreamRoute]:
        """The upstream, and its name, for what none of us answers: the one that was named, else the model's, else the
        first; raises ``RequestError`` when there is none.
        """
        if not self._upstreams:
            raise _not_served("Nothing here answers this address: that takes an upstream, and none is configured.")
        if named is not None:
            if named not in self._upstreams:
                raise RequestError(FailureCode.NOT_FOUND, "No upstream has the name in the header `x-upstream`.")
            return named, self._upstreams[named]
        if model is None:
            return next(iter(self._upstreams.items()))
        if model in self._local or model in self._aliases:
            raise _not_served("This model is served here, and does not answer at this address.")
        return await self._route(model)

    async def list(self) -> tuple[ModelCard, ...]:
        """Everything that can be called now: local models, their aliases, upstream models; no id twice.

        A local model that is not loaded is absent, and its aliases with it.
        """
        local, upstream = await asyncio.gather(self._local_cards(), self._upstream_cards())
        aliases = [replace(local[target], id=name) for name, target in self._aliases.items() if target in local]
        cards: dict[str, ModelCard] = {}
        for card in [*local.values(), *aliases, *(card for cards_of_one in upstream for card in cards_of_one)]:
            cards.setdefault(card.id, card)
        return tuple(cards.values())

    async def _route(self, model: str) -> tuple[str, UpstreamRoute]:
        silent: tuple[str, UpstreamRoute] | None = None
        for name, route in self._upstreams.items():
            ids = await self._ids(name, model)
            if model in ids:
                return name, route
            silent = silent or (None if ids else (name, route))
        if silent is not None:
            return silent
        raise no_such_model(model)

    async def _ids(self, name: str, model: str) -> frozenset[str]:
        """What an upstream lists; asked again when that was long ago, or does not hold what is looked for."""
        asked_s, ids = self._remembered.get(name, (float("-inf"), frozenset()))
        if model not in ids or self._clock() - asked_s >= self._remember_s:
            ids = frozenset(card.id for card in await self._cards(self._upstreams[name].backend))
            self._remembered[name] = (self._clock(), ids)
        return ids

    async def _local_cards(self) -> dict[str, ModelCard]:
        found = await asyncio.gather(*(self._cards(backend) for backend in self._local.values()))
        return {name: replace(cards[0], id=name) for name, cards in zip(self._local, found, strict=True) if cards}

    async def _upstream_cards(self) -> tuple[tuple[ModelCard, ...], ...]:
        return tuple(await asyncio.gather(*(self._cards(route.backend) for route in self._upstreams.values())))

    async def _cards(self, backend: Backend) -> tuple[ModelCard, ...]:
        """What one backend lists; nothing when it does not answer in time, so that it cannot hold up the others."""
        try:
            async with asyncio.timeout(self._list_timeout_s):
                return await backend.models()
        except TimeoutError:
            log.warning("a backend did not list its models within %g s", self._list_timeout_s)
        except Exception:
            log.exception("a backend failed to list its models")
        return ()


def _not_served(text: str) -> RequestError:
    return RequestError(FailureCode.UNSUPPORTED_ENDPOINT, text)
