"""The script that fills the model volume, run by bash against a web server."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.k8s.rendering import K8S

SCRIPT = K8S / "components" / "model-fetch" / "fetch.sh"
MODEL = os.urandom(200_000)
SHA256 = hashlib.sha256(MODEL).hexdigest()

pytestmark = pytest.mark.skipif(shutil.which("wget") is None, reason="wget is not installed; the image has it")


class Files(ThreadingHTTPServer):
    """Serves MODEL, with ranges; ``asked`` are the ranges."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Files

    def log_message(self, *arguments: object) -> None:
        """Not on the tests' output."""

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(MODEL) - first))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(MODEL) - 1}/{len(MODEL)}")
        self.end_headers()
        self.wfile.write(MODEL[first:])


@pytest.fixture
def files() -> Iterator[Files]:
    server = Files()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(files: Files, folder: Path, sha256: str = SHA256) -> subprocess.CompletedProcess[str]:
    models = folder.parent / "models.txt"
    models.write_text(f"# a comment\n\n{sha256} sub/a.gguf http://127.0.0.1:{files.server_port}/a.gguf\n")
    command = ["bash", str(SCRIPT), str(models), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def test_a_model_is_fetched_once_and_then_left_alone(files: Files, folder: Path) -> None:
    assert fetch(files, folder).returncode == 0
    assert (folder / "sub" / "a.gguf").read_bytes() == MODEL
    done = fetch(files, folder)
    assert done.returncode == 0
    assert "there already" in done.stdout
    assert len(files.asked) == 1
    assert [path.name for path in (folder / "sub").iterdir()] == ["a.gguf"]


def test_an_interrupted_download_goes_on_where_it_stopped(files: Files, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.gguf.part").write_bytes(MODEL[:50_000])
    assert fetch(files, folder).returncode == 0
    assert files.asked == ["bytes=50000-"]
    assert (folder / "sub" / "a.gguf").read_bytes() == MODEL


def test_a_file_that_is_not_the_expected_one_never_gets_its_name(files: Files, folder: Path) -> None:
    done = fetch(files, folder, sha256="0" * 64)
    assert done.returncode == 1
    assert "SHA-256 differs" in done.stderr
    assert list((folder / "sub").iterdir()) == []


def test_a_damaged_model_is_replaced(files: Files, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.gguf").write_bytes(b"half a model")
    assert fetch(files, folder).returncode == 0
    assert (folder / "sub" / "a.gguf").read_bytes() == MODEL
