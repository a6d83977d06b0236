"""The application with a model that answers at once, for tests that kill it.

``python -m tests.batch_server PORT FOLDER`` keeps everything in the folder, and takes a silent writer for dead in 2 s.
Its model ``echo`` says what it was asked, fails for good where that is ``bad``, and is lost where it is ``poison``.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path

from serve_app.api.admission import Admission
from serve_app.api.blobs import Blobs
from serve_app.api.context import Context
from serve_app.api.directory import Directory
from serve_app.api.ledger import Ledger
from serve_app.api.limits import Limits
from serve_app.api.pending import Rhythm
from serve_app.api.spool import Spool
from serve_app.protocol import Chat, Delta, Done, Event, Failed, FailureCode, Generate, ModelCard, Started, Usage
from serve_app.store import SqlStore
from tests.plain_server import listen

RHYTHM = Rhythm(beat_s=0.5, reap_s=1.0, reap_older_than_s=2.0)
_ENDS: dict[str, Event] = {
    "bad": Failed(FailureCode.INVALID_REQUEST, "This cannot be said."),
    "poison": Failed(FailureCode.ENGINE_LOST, "The model is gone."),
}


class Echo:
    """``tiers`` keeps how urgent its requests were."""

    def __init__(self) -> None:
        self.tiers: list[int] = []

    async def generate(self, request: Generate) -> AsyncGenerator[list[Event], None]:
        self.tiers.append(request.tier)
        prompt = request.prompts[0]
        text = prompt.messages[-1]["content"] if isinstance(prompt, Chat) else str(prompt.prompt)
        if text == "later":
            await asyncio.Event().wait()
        said = Delta(0, text, finish="stop")
        yield [_ENDS[text]] if text in _ENDS else [Started(3), said, Done(Usage(3, 2, 1))]

    async def models(self) -> tuple[ModelCard, ...]:
        return (ModelCard("echo", 1_700_000_000, "tests"),)


async def serve(port: int, folder: Path) -> None:
    store = await SqlStore.open(f"sqlite:///{folder}/batch.db")
    writer = f"w-{uuid.uuid4().hex}"
    context = Context(
        directory=Directory({"echo": Echo()}, {}, {}),
        store=store,
        blobs=Blobs(folder / "files"),
        ledger=Ledger(store, writer, rhythm=RHYTHM, spool=Spool(folder / "spool", writer)),
        admission=Admission(),
        limits=Limits(),
        new_id=lambda: uuid.uuid4().hex,
        clock=time.time,
    )
    try:
        await listen(context, port)
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
