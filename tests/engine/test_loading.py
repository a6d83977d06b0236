"""A model that cannot serve says why in one line, and the process lives on."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from serve_app.engine import loading
from serve_app.engine.loading import LocalModelOptions, load
from serve_app.engine.model import ModelLoadError
from tests.engine.asking import ask, request
from tests.model import model_path


def _missing(path: Path) -> None: ...


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _something_else(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(1000))


def _magic_only(path: Path) -> None:
    path.write_bytes(b"GGUF")


def _garbage_behind_the_magic(path: Path) -> None:
    path.write_bytes(b"GGUF" + bytes(range(256)) * 40)


def _truncated(path: Path) -> None:
    with Path(model_path()).open("rb") as model:
        path.write_bytes(model.read(1 << 20))


def _directory(path: Path) -> None:
    path.mkdir()


def _forbidden_kind(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    "make",
    [
        _missing,
        _empty,
        _something_else,
        _magic_only,
        _garbage_behind_the_magic,
        _truncated,
        _directory,
        _forbidden_kind,
    ],
)
async def test_a_file_that_is_no_model_is_refused_in_one_line_without_its_path(make, tmp_path: Path) -> None:
    path = tmp_path / "secret-name.gguf"
    make(path)
    with pytest.raises(ModelLoadError) as caught:
        load(LocalModelOptions("m", str(path)))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


async def test_a_model_with_a_hostile_template_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "probe", lambda source: "its chat template is broken")
    with pytest.raises(ModelLoadError, match="template"):
        load(LocalModelOptions("m", model_path(), n_cells=256, n_context=256))


async def test_a_model_serves_after_another_failed_and_ends_when_it_is_closed() -> None:
    with pytest.raises(ModelLoadError):
        load(LocalModelOptions("bad", "/nowhere"))
    backend = load(LocalModelOptions("good", model_path(), n_context=256, n_cells=256, n_slots=40, n_batch=16))
    (card,) = await backend.models()
    assert (card.id, card.context_length) == ("good", 256)
    waiting = asyncio.create_task(ask(backend, request("x", n=200, ignore_eos=True)))
    assert (await ask(backend, request("word " * 60, n=1))).finish() == "length"
    await backend.close()
    assert (await waiting).end.code == "server_shutting_down"  # type: ignore[union-attr]
    assert await backend.models() == ()
    assert (await ask(backend, request("x"))).end.code == "engine_lost"  # type: ignore[union-attr]
    del backend
    gc.collect()


async def test_the_copy_on_the_nodes_own_disk_is_read_before_the_shared_file(tmp_path: Path) -> None:
    (tmp_path / "near.gguf").symlink_to(model_path())
    copies = (str(tmp_path / "elsewhere.gguf"), str(tmp_path / "near.gguf"))
    backend = load(LocalModelOptions("m", "/nowhere", copies=copies, n_context=256, n_cells=256))
    assert [card.id for card in await backend.models()] == ["m"]
    await backend.close()
