"""Docker's command line, for tests that start containers: what is started is noted, and removed at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.running import ROOT


def run(*arguments: str, check: bool = True, timeout_s: float = 120, stdin: bytes | None = None) -> str:
    """``docker ARGUMENTS``; its output."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, input=stdin, timeout=timeout_s, env=environment, check=False
    )
    text = (done.stdout + done.stderr).decode(errors="replace")
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {text[-3000:]}"
    return done.stdout.decode(errors="replace").strip() if check else text


def works(*arguments: str) -> bool:
    return subprocess.run(["docker", *arguments], capture_output=True, timeout=60, check=False).returncode == 0


def need_docker() -> None:
    """Skips the test where no Docker daemon answers."""
    if not shutil.which("docker") or not works("info"):
        pytest.skip("no Docker daemon answers: start one, or set DOCKER_HOST")


def need_base_image(name: str) -> None:
    """The Dockerfile's base; where no registry can be reached, Debian's own Python takes its place under its name."""
    if works("image", "inspect", name) or works("pull", name):
        return
    if not shutil.which("debootstrap") or os.getuid() != 0:
        pytest.skip(f"{name} cannot be pulled, and a stand-in needs root and debootstrap")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        packages = "ca-certificates,python3,python3-venv"
        command = ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root)]
        subprocess.run(command, check=True, capture_output=True, timeout=900)
        (root / "usr/bin/python").symlink_to("python3")
        # The certificates that this machine trusts: its way to PyPI may lead through a proxy of its own.
        bundle = root / "etc/ssl/certs/ca-certificates.crt"
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", bundle)
        (root / "etc/pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
        archive = subprocess.run(["tar", "-C", str(root), "-c", "."], check=True, capture_output=True).stdout
        run("import", "-", name, stdin=archive)


def build(image: str) -> None:
    """``make image``, under this name."""
    command = ["make", "image", f"IMAGE={image}", "DOCKER_BUILD_FLAGS=--network host"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
