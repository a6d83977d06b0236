"""AffinityRouter: which replica of a model gets a request. The one that holds its prefix, unless that one is busier.

A conversation's next turn repeats all of its turns. The replica that computed them still holds them; any other would
compute them again. So each router remembers where prefixes went, by digests of the messages up to each point.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from ray.serve.request_router import LocalityMixin, MultiplexMixin, PendingRequest, RequestRouter, RunningReplica

from serve_app.protocol import Chat, Generate, Text

_PREFIXES = 50_000
"""Remembered in each router, 16 bytes each."""

_BLOCK, _BLOCKS = 512, 64
"""A raw prompt counts as a chain of blocks of so many characters, the first so many of them."""

Replica = TypeVar("Replica")


class Memory(Generic[Replica]):
    """Where prefixes went; the least recently used are forgotten first."""

    def __init__(self, capacity: int = _PREFIXES) -> None:
        self._capacity = capacity
        self._seen: OrderedDict[bytes, Replica] = OrderedDict()

    def find(self, prefixes: list[bytes]) -> Replica | None:
        """Where the longest of them went last; ``prefixes`` from short to long."""
        return next((self._seen[prefix] for prefix in reversed(prefixes) if prefix in self._seen), None)

    def add(self, prefixes: list[bytes], replica: Replica) -> None:
        for prefix in prefixes:
            self._seen[prefix] = replica
            self._seen.move_to_end(prefix)
        while len(self._seen) > self._capacity:
            self._seen.popitem(last=False)


def prefixes_of(request: Any) -> list[bytes]:
    """A digest for every point up to which another request may be the same, from short to long; within one tenant.

    Where the client names its conversations (``prompt_cache_key``) the name is the shortest of them.
    """
    if not isinstance(request, Generate) or not request.prompts:
        return []
    state = blake2b(request.tenant.encode("utf-8", "surrogatepass"), digest_size=16)
    found = []
    if request.cache_key is not None:
        named = state.copy()
        named.update(b"key:" + request.cache_key.encode("utf-8", "surrogatepass"))
        found.append(named.digest())
    for part in _parts(request.prompts[0]):
        state.update(b"%d:" % len(part))
        state.update(part)
        found.append(state.digest())
    return found


def _parts(prompt: Chat | Text) -> Iterator[bytes]:
    if isinstance(prompt, Chat):
        before = prompt.tools
        for message in prompt.messages:
            yield _bytes((before, message))
            before = ()
        return
    for start in range(0, min(len(prompt.prompt), _BLOCK * _BLOCKS), _BLOCK):
        yield _bytes(prompt.prompt[start : start + _BLOCK])


def _bytes(value: object) -> bytes:
    return repr(value).encode("utf-8", "surrogatepass")


def choose(loads: dict[Replica, int], holder: Replica | None, slack: int, rng: random.Random) -> list[list[Replica]]:
    """Ranks of replicas: who holds the prefix if it has at most ``slack`` requests more than the least busy; then two
    at random, of which Ray takes the less busy."""
    pair = rng.sample(list(loads), min(2, len(loads)))
    if holder in loads and loads[holder] <= min(loads.values()) + slack:
        return [[holder], pair]
    return [pair]


class AffinityRouter(LocalityMixin, MultiplexMixin, RequestRouter):  # type: ignore[misc]  # Ray has no types
    """Runs in the ingress, one for each model. ``slack`` comes with ``request_router_kwargs``."""

    def initialize_state(self, **options: Any) -> None:
        self._slack = int(options["slack"])
        self._memory: Memory[Any] = Memory()
        self._rng = random.Random()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if len(candidate_replicas) < 2:
            return [candidate_replicas] if candidate_replicas else []
        loads = {each.replica_id: self.replica_queue_len_cache.get(each.replica_id) or 0 for each in candidate_replicas}
        arguments = pending_request.args if pending_request else ()
        holder = self._memory.find(prefixes_of(arguments[0])) if arguments else None
        by_id = {each.replica_id: each for each in candidate_replicas}
        return [[by_id[name] for name in rank] for rank in choose(loads, holder, self._slack, self._rng)]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: Any, result: Any) -> None:
        if pending_request.args:
            self._memory.add(prefixes_of(pending_request.args[0]), replica_id)
