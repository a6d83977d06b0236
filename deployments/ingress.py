"""Ingress: OpenAI's API over the other deployments. FastAPI, built in the replica (late-bound) around Ray handles."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.handles import RemoteBackend, RemoteUpstream, remote_store
from serve_app.api.admission import Admission
from serve_app.api.app import create_app
from serve_app.api.blobs import Blobs
from serve_app.api.context import Context
from serve_app.api.directory import Alias, Directory, UpstreamRoute
from serve_app.api.gate import Gate
from serve_app.api.keyring import Keyring
from serve_app.api.ledger import Ledger
from serve_app.api.limits import Limits
from serve_app.api.spool import Spool

_log = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class IngressOptions:
    """Plain values for the API. ``api_keys`` never show in a repr."""

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    behind_haproxy: bool = False
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    caller_key: frozenset[str] = frozenset()
    private_accounts: frozenset[str] = frozenset()
    limits: Limits = field(default_factory=Limits)
    spool_folder: str = ""
    files_folder: str = "files"
    log_level: str = "INFO"


@serve.ingress()
class Ingress:
    """Holds the handles; everything a client sees is ``serve_app.api``."""

    def __init__(
        self,
        options: IngressOptions,
        local: dict[str, DeploymentHandle],
        upstreams: dict[str, DeploymentHandle],
        store: DeploymentHandle,
    ) -> None:
        logging.getLogger("llm_backend").setLevel(options.log_level)
        self._options = options
        self._local = {name: RemoteBackend(handle) for name, handle in local.items()}
        self._upstreams = {
            name: UpstreamRoute(
                RemoteUpstream(handle),
                caller_key=name in options.caller_key,
                shared_account=name not in options.private_accounts,
            )
            for name, handle in upstreams.items()
        }
        self._store = remote_store(store)

    def __serve_build_asgi_app__(self) -> Gate:
        options = self._options
        writer = f"ingress-{uuid.uuid4().hex[:12]}"
        context = Context(
            directory=Directory(self._local, options.aliases, self._upstreams),
            store=self._store,
            blobs=Blobs(Path(options.files_folder)),
            ledger=Ledger(self._store, writer, spool=_spool(options.spool_folder, writer)),
            admission=Admission(
                options.api_keys, keyring=Keyring(self._store.keys), behind_proxy=options.behind_haproxy
            ),
            limits=options.limits,
            new_id=lambda: uuid.uuid4().hex,
            clock=time.time,
        )
        return create_app(context, own_request_id=False)


def _spool(folder: str, writer: str) -> Spool | None:
    """The journal on this node's disk; without a disk that can be written, requests wait for the database instead."""
    try:
        return Spool(Path(folder), writer) if folder else None
    except OSError:
        _log.warning("The spool folder cannot be written: the end of each request waits for the database.")
        return None
