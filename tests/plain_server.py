"""The application in one process, without Ray: a real OpenAI-compatible server for tests and benches to talk to.

``python -m tests.plain_server PORT MODEL_FILE [KEY]`` serves the file as ``cloud-model`` on loopback.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
import uuid
from pathlib import Path

import uvicorn

from serve_app.api.admission import Admission
from serve_app.api.app import create_app
from serve_app.api.blobs import Blobs
from serve_app.api.context import Context
from serve_app.api.directory import Directory
from serve_app.api.ledger import Ledger
from serve_app.api.limits import Limits
from serve_app.engine.loading import LocalModelOptions, load
from serve_app.store.store import SqlStore

MODEL = "cloud-model"


async def serve(port: int, model_file: str, keys: tuple[str, ...], database: Path) -> None:
    backend = load(LocalModelOptions(MODEL, model_file, n_threads=2))
    store = await SqlStore.open(f"sqlite:///{database}")
    context = Context(
        directory=Directory({MODEL: backend}, {}, {}),
        store=store,
        blobs=Blobs(database.parent / "files"),
        ledger=Ledger(store, "plain"),
        admission=Admission(keys),
        limits=Limits(),
        new_id=lambda: uuid.uuid4().hex,
        clock=time.time,
    )
    try:
        await listen(context, port)
    finally:
        await backend.close()
        await store.close()


async def listen(context: Context, port: int) -> None:
    """The app until it is told to end."""
    app = create_app(context, own_request_id=True)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
    await uvicorn.Server(config).serve()


def main(arguments: list[str]) -> None:
    port, model_file, *keys = arguments
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(serve(int(port), model_file, tuple(keys), Path(folder) / "plain.db"))


if __name__ == "__main__":
    main(sys.argv[1:])
