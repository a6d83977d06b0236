from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from serve_app.engine.backend import LocalBackend
from serve_app.engine.loading import LocalModelOptions, load
from tests.model import model_path


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend() -> AsyncIterator[LocalBackend]:
    """The real model, loaded once. Tests that use it run on the session's event loop."""
    made = load(LocalModelOptions("llama", model_path(), n_context=512, n_cells=8192, n_threads=2))
    yield made
    await made.close()
