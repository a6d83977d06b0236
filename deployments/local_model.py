"""LocalModel: one GGUF model as a Ray Serve deployment.

Thread law: the actor's event loop runs everything here; the engine's thread computes; the watchdog thread only reads
``stalled_for`` and may end the process. A replica whose engine is dead or stuck must not live: it exits, Ray starts
another, and the ingress ends its streams with an error event.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing

from serve_app.engine.backend import LocalBackend
from serve_app.engine.embedding_backend import EmbeddingBackend
from serve_app.engine.loading import EmbeddingModelOptions, LocalModelOptions, load, load_embedding
from serve_app.engine.model import ModelLoadError
from serve_app.protocol import Event, Failed, FailureCode, ModelCard, Work

_log = logging.getLogger("ray.serve")

HANG_S = 60.0
_EXIT_LOST = 70
_LAST_WORDS_S = 0.5


class LocalModel:
    """Holds a model's backend, or the reason why there is none: a bad file must not take the other models down."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it: the engine needs the running loop
        self, options: LocalModelOptions | EmbeddingModelOptions, log_level: str = "INFO", hang_s: float = HANG_S
    ) -> None:
        logging.getLogger("llm_backend").setLevel(log_level)
        self._model = options.model
        self._complaint = ""
        self._backend: LocalBackend | EmbeddingBackend | None = None
        try:
            if isinstance(options, EmbeddingModelOptions):
                self._backend = load_embedding(options, on_death=self._exit_soon)
            else:
                self._backend = load(options, on_death=self._exit_soon)
        except ModelLoadError as error:
            self._complaint = f"The model {options.model} is not served: {error}."
            _log.error(self._complaint)
        threading.Thread(target=self._watch, args=(hang_s,), name="watchdog", daemon=True).start()

    async def generate(self, request: Work) -> AsyncGenerator[list[Event], None]:
        if self._backend is None:
            yield [Failed(FailureCode.MODEL_UNAVAILABLE, self._complaint)]
            return
        async with aclosing(self._backend.generate(request)) as events:
            async for batch in events:
                yield batch

    async def models(self) -> tuple[ModelCard, ...]:
        return await self._backend.models() if self._backend else ()

    async def complaint(self) -> str:
        """Why the model is not served; empty when it is."""
        return self._complaint

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For a custom autoscaling policy: how many sequences run and wait."""
        stats = self._backend.engine.stats() if self._backend else None
        return {"running": stats.n_running, "waiting": stats.n_waiting} if stats else {}

    async def check_health(self) -> None:
        if self._backend and not self._backend.engine.alive:
            raise RuntimeError("the engine thread is dead")

    def _exit_soon(self) -> None:
        """Engine thread: leave the loop half a second to send the streams' last events, then end the process."""
        threading.Timer(_LAST_WORDS_S, os._exit, (_EXIT_LOST,)).start()

    def _watch(self, hang_s: float) -> None:
        """A step that does not end cannot be ended: the process must be."""
        pause = threading.Event()
        while not pause.wait(1.0):
            if self._backend and self._backend.engine.stalled_for() > hang_s:
                _log.error("The model %s hangs in one step for over %.0f s: its replica exits.", self._model, hang_s)
                os._exit(_EXIT_LOST)

    async def __del__(self) -> None:
        if self._backend:
            await self._backend.close()
