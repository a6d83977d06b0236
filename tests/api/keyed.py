"""The application with keys in a real store, and a client for each of them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
from openai import AsyncOpenAI

from serve_app.api.admission import Admission
from serve_app.api.app import create_app
from serve_app.api.blobs import Blobs
from serve_app.api.context import Context
from serve_app.api.gate import Gate
from serve_app.api.keyring import Keyring, Tempo
from serve_app.protocol import Backend, Key, Project, Scope, Secret
from serve_app.store import SqlStore
from tests.api.serving import make_context

REMOTE = ("8.8.8.8", 40000)
PROJECT = "proj_first"


class KeyedHouse:
    """``store`` and ``context`` are the application's; clients come from another machine."""

    def __init__(self, gate: Gate, context: Context, store: SqlStore) -> None:
        self.gate = gate
        self.context = context
        self.store = store
        self._n_made = 0

    async def make(
        self,
        *scopes: Scope,
        project: str | None = PROJECT,
        models: tuple[str, ...] | None = None,
        weight: float = 1.0,
        expires_s: float | None = None,
    ) -> tuple[str, str]:
        """Id and text of a new key."""
        self._n_made += 1
        secret, key_id = Secret.of(self._n_made.to_bytes(32)), f"key_{self._n_made}"
        key = Key(
            key_id,
            "robot",
            secret.hint,
            scopes or ("inference",),
            time.time(),
            project,
            None,
            models,
            weight,
            expires_s,
        )
        if project is not None and await self.store.keys.project(project) is None:
            await self.store.keys.add_project(Project(project, "first", time.time()))
        assert await self.store.keys.add(key, secret.digest)
        return key_id, secret.text

    def client(self, text: str | None = None) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.gate, client=REMOTE)
        headers = {"authorization": f"Bearer {text}"} if text else {}
        return httpx.AsyncClient(transport=transport, base_url="http://house", headers=headers)

    def openai(self, text: str) -> AsyncOpenAI:
        return AsyncOpenAI(
            api_key=text, admin_api_key=text, base_url="http://house/v1", http_client=self.client(), max_retries=0
        )


@asynccontextmanager
async def keyed_house(folder: Path, local: Mapping[str, Backend]) -> AsyncGenerator[KeyedHouse]:
    store = await SqlStore.open(f"sqlite:///{folder}/keyed.db")
    context = make_context(local=local, store=store, blobs=Blobs(folder / "files"))
    keyring = Keyring(store.keys, tempo=Tempo(pause_s=0.005))
    context = replace(context, admission=Admission(keyring=keyring), clock=time.time)
    gate = create_app(context, own_request_id=True)
    try:
        async with gate.app.router.lifespan_context(gate.app):
            yield KeyedHouse(gate, context, store)
    finally:
        await store.close()
