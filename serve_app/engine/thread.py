"""EngineThread: the thread that owns a llama.cpp context, and how it ends."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from serve_app.protocol import Failed, FailureCode

_log = logging.getLogger("llm_backend.engine")

_CLOSED = Failed(FailureCode.SHUTTING_DOWN, "The server is shutting down.")
_LOST = Failed(FailureCode.ENGINE_LOST, "The model's engine was lost. Please try again.")


class EngineThread(ABC):
    """From any thread: ``start``, ``alive``, ``stalled_for``, ``join``. The rest is the engine thread's own.

    When the work raises, all jobs fail with ``engine_lost`` and ``on_death`` is called last: a dead engine must not
    live on in a healthy process.
    """

    def __init__(self, name: str, on_death: Callable[[], None], clock: Callable[[], float]) -> None:
        self._on_death = on_death
        self._clock = clock
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stalled_for(self) -> float:
        """Seconds that what is being computed has taken so far; 0 in between and while idle."""
        return 0.0 if (since := self._busy_since) is None else self._clock() - since

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @abstractmethod
    def _work(self) -> None:
        """Computes until the engine is closed. Sets ``_busy_since`` while it computes."""

    @abstractmethod
    def _fail_all(self, last_words: Failed) -> None:
        """No job comes in any more; all there are end with these words."""

    @abstractmethod
    def _free(self) -> None:
        """The context's memory goes."""

    def _run(self) -> None:
        try:
            self._work()
            self._fail_all(_CLOSED)
        except BaseException:
            _log.exception("the engine thread died")
            self._die()
        finally:
            self._busy_since = None
            self._free()

    def _die(self) -> None:
        try:
            self._fail_all(_LOST)
        except Exception:
            _log.exception("nobody can be told that the engine died")
        finally:
            self._on_death()
