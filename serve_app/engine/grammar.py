"""Grammars -> token masks. Compiled off the event loop within a budget, cached by content, refusals too."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from serve_app.engine.compiler import Compiler, GrammarError, Trial, Vocabulary
from serve_app.engine.llama import Llama, Logits
from serve_app.engine.sampler import Mask

MAX_SOURCE_BYTES = 64 * 1024
_CACHE_SIZE = 256
_N_TRIALS = 2


class Grammars:
    """Compiler of one vocabulary's grammars, on one event loop.

    Grammars are compiled by as many threads as there are trials, and one at a time for each tenant: a schema that uses
    up the whole budget holds up its own tenant, and nobody else. Made while the model loads: llguidance reads the
    vocabulary without letting go of the interpreter.
    """

    def __init__(self, llama: Llama) -> None:
        ends = [llama.eos, *sorted(llama.end_tokens - {llama.eos})]
        self._vocabulary = Vocabulary(llama.pieces, ends)
        self._compiler = Compiler(self._vocabulary)
        self._pool = ThreadPoolExecutor(_N_TRIALS, thread_name_prefix="grammars")
        self._trials = [Trial(self._vocabulary) for _ in range(_N_TRIALS)]
        self._idle: SimpleQueue[Trial] = SimpleQueue()
        for trial in self._trials:
            self._idle.put(trial)
        self._known: OrderedDict[str, Any] = OrderedDict()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def compile(self, source: str, tenant: str) -> Callable[[], Mask]:
        """A factory of fresh masks, one per choice. Raises GrammarError."""
        if len(source) > MAX_SOURCE_BYTES:
            raise GrammarError(f"it is larger than {MAX_SOURCE_BYTES} bytes")
        if source not in self._known:
            async with self._turns.setdefault(tenant, asyncio.Lock()):
                if source not in self._known:
                    self._remember(source, await self._in_a_thread(source))
        self._known.move_to_end(source)
        found = self._known[source]
        if isinstance(found, GrammarError):
            raise GrammarError(*found.args)
        return lambda: GrammarMask(found.deep_copy(), len(self._vocabulary.pieces))

    async def _in_a_thread(self, source: str) -> Any:
        """Also who gave up waiting keeps the tenant's turn until it is over."""
        attempt = asyncio.get_running_loop().run_in_executor(self._pool, self._try, source)
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            await asyncio.wait([attempt])
            raise

    def _remember(self, source: str, found: Any) -> None:
        self._known[source] = found
        if len(self._known) > _CACHE_SIZE:
            self._known.popitem(last=False)

    def _try(self, source: str) -> Any:
        """A matcher, or the error."""
        trial = self._idle.get()
        try:
            trial.check(source)
            return self._compiler.compile(source)
        except GrammarError as error:
            return error
        finally:
            self._idle.put(trial)

    def close(self) -> None:
        """Ends the trials. Blocks until their processes are gone."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for trial in self._trials:
            trial.close()


class GrammarMask:
    """One choice's walk through a grammar."""

    def __init__(self, matcher: Any, n_vocab: int) -> None:
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._bits = np.zeros((n_vocab + 31) // 32, dtype=np.int32)

    @property
    def complete(self) -> bool:
        return bool(self._matcher.is_accepting())

    def apply(self, logits: Logits) -> bool:
        if self._matcher.is_stopped():
            return False
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():  # a limit of its own: the mask would allow the end
            return False
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little", count=self._n_vocab).view(np.bool_)
        logits[~allowed] = -np.inf
        return bool(allowed.any())

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
