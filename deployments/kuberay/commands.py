"""``llm-backend k8s``: from an overlay to a service that answers, without kubectl."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.kuberay.errors import KubernetesError, ManifestError
from deployments.kuberay.manifests import Manifest, parse, render

if TYPE_CHECKING:
    from deployments.kuberay.check import Findings
    from deployments.kuberay.service import Service

app = typer.Typer(no_args_is_help=True, help="The graph on Kubernetes, as a RayService of KubeRay.")
_say = Console(highlight=False, soft_wrap=True)
_complain = Console(stderr=True, highlight=False, soft_wrap=True)

Source = Annotated[
    Path, typer.Argument(help="An overlay (k8s/overlays/prod), a file of manifests, or - for standard input.")
]
Name = Annotated[str, typer.Option(help="The RayService.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n")]
Context = Annotated[str | None, typer.Option(help="A context of the kubeconfig; default: its current one.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait: for each job, and for the service.")]
Force = Annotated[bool, typer.Option(help="Take over fields that another tool manages.")]

_NAME = "llm-backend"


@app.command("render")
def render_(source: Source) -> None:
    """Print an overlay's manifests."""
    with _told():
        typer.echo(_text(source), nl=False)


@app.command()
def validate(source: Source) -> None:
    """Check manifests without a cluster: KubeRay's rules, references, sizes, this version's graph."""
    with _told():
        findings = _checked(_manifests(source))
    for reference in findings.expected:
        _say.print(escape(f"must be in the cluster: {reference}"))
    _say.print("[green]valid[/green]")


@app.command()
def apply(
    source: Source,
    name: Name = _NAME,
    namespace: Namespace = _NAME,
    context: Context = None,
    timeout: Timeout = 1800,
    force: Force = False,
    wait: Annotated[bool, typer.Option(help="Wait until the new version serves.")] = True,
    dry_run: Annotated[bool, typer.Option(help="Ask the API server, change nothing.")] = False,
) -> None:
    """Validate, apply, run the jobs, bring out the RayService, wait until it serves."""
    with _told():
        manifests = _manifests(source)
        findings = _checked(manifests)
        with _service(context, namespace, name) as service:
            missing = service.missing([] if dry_run else findings.expected)
            if missing:
                _fail(f"Not applied. Make these first (k8s/README.md): {'; '.join(map(str, missing))}")
            if dry_run:
                service.rehearse(manifests, force=force)
                return
            service.apply(manifests, timeout_s=timeout, force=force)
            if wait:
                _wait(service, timeout)


@app.command("status")
def status_(name: Name = _NAME, namespace: Namespace = _NAME, context: Context = None) -> None:
    """Conditions, applications, deployments and pods. Exit code 1 unless the newest version serves."""
    with _told(), _service(context, namespace, name) as service:
        status = service.status()
    table = Table("what", "state", "why", box=None)
    for kind, state, why in status.conditions:
        table.add_row(escape(kind), escape(state), escape(why))
    for part in status.parts:
        table.add_row(escape(f"{part.cluster} {part.name}"), escape(part.status), escape(part.message))
    for pod in status.pods:
        state = f"{pod.phase}{', ready' if pod.ready else ''}, {pod.restarts} restarts"
        table.add_row(escape(f"pod {pod.name}"), escape(state), escape(pod.problem or f"on {pod.node}"))
    _say.print(table)
    if not status.serving:
        raise typer.Exit(1)


@app.command()
def wait(name: Name = _NAME, namespace: Namespace = _NAME, context: Context = None, timeout: Timeout = 1800) -> None:
    """Wait until the newest version serves."""
    with _told(), _service(context, namespace, name) as service:
        _wait(service, timeout)


@app.command()
def logs(
    name: Name = _NAME,
    namespace: Namespace = _NAME,
    context: Context = None,
    tail: Annotated[int, typer.Option(min=0, help="Lines of each file.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f")] = False,
    pod: Annotated[str | None, typer.Option(help="One pod alone.")] = None,
) -> None:
    """Logs of Serve and of the graph, from every pod."""
    with _told(), _service(context, namespace, name) as service:
        running = [each["metadata"]["name"] for each in service.pods() if each["status"].get("phase") == "Running"]
        if pod and pod not in running:
            _fail(f"{pod} is none of the running pods: {', '.join(running) or 'there are none'}")
        for source, line in service.logs([pod] if pod else running, tail=tail, follow=follow):
            _say.print(f"[dim]{escape(source)}[/dim] {escape(line)}")


@app.command()
def rollback(
    name: Name = _NAME,
    namespace: Namespace = _NAME,
    context: Context = None,
    to: Annotated[int | None, typer.Option(help="A revision's number; default: the one before the newest.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Only list the revisions.")] = False,
    timeout: Timeout = 1800,
    force: Force = False,
) -> None:
    """Go back to a RayService that was applied before."""
    with _told(), _service(context, namespace, name) as service:
        if show:
            for each in service.history.revisions():
                _say.print(f"{each.number}  {each.created}  {each.digest}")
            return
        service.rollback(to, force=force)
        _wait(service, timeout)


@app.command()
def reload(name: Name = _NAME, namespace: Namespace = _NAME, context: Context = None) -> None:
    """For development: start the replicas anew, with the code that is in the pods by now."""
    with _told(), _service(context, namespace, name) as service:
        service.reload(f"{time.time():.3f}")


@app.command()
def delete(
    source: Source,
    name: Name = _NAME,
    namespace: Namespace = _NAME,
    context: Context = None,
    data_too: Annotated[bool, typer.Option(help="Volumes, Secrets and the namespace too.")] = False,
    yes: Annotated[bool, typer.Option(help="Do not ask.")] = False,
) -> None:
    """Delete the service. Volumes, Secrets and the namespace stay, unless told otherwise."""
    if not yes:
        typer.confirm(f"Delete {name}{' and all its data' if data_too else ''}?", abort=True)
    with _told():
        manifests = _manifests(source)
        with _service(context, namespace, name) as service:
            service.delete(manifests, data_too=data_too)


def _text(source: Path) -> str:
    if str(source) == "-":
        return sys.stdin.read()
    if source.is_dir():
        return render(source)
    try:
        return source.read_text()
    except OSError as error:
        raise ManifestError(f"{source} cannot be read: {error.strerror}") from None


def _manifests(source: Path) -> list[Manifest]:
    return parse(_text(source))


def _checked(manifests: list[Manifest]) -> Findings:
    from deployments.kuberay.check import check

    findings = check(manifests)
    for line in findings.errors:
        _complain.print(f"[red]{escape(line)}[/red]")
    if findings.errors:
        raise typer.Exit(1)
    return findings


def _wait(service: Service, timeout_s: float) -> None:
    service.wait(timeout_s)
    _say.print("[green]serving[/green]")


@contextmanager
def _service(context: str | None, namespace: str, name: str) -> Iterator[Service]:
    if importlib.util.find_spec("kubernetes") is None:
        _fail("The Kubernetes client is missing: `make tools` brings it, and so does pip install '.[k8s]'")
    # Half a second of imports, for those who talk to a cluster.
    from deployments.kuberay.cluster import connected
    from deployments.kuberay.service import Service

    with connected(context, namespace) as cluster:
        yield Service(cluster, name, lambda line: _say.print(escape(line)))


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong is said in one line."""
    try:
        yield
    except KubernetesError as error:
        _fail(str(error))


def _fail(line: str) -> NoReturn:
    """One line on standard error, exit code 1."""
    _complain.print(f"[red]{escape(line)}[/red]")
    raise typer.Exit(1)
