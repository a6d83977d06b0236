"""The tooling against an API server: order, waiting, history, and how it says no."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes.config import kube_config
from typer.testing import CliRunner, Result

from deployments.cli import app
from deployments.kuberay.cluster import connected
from deployments.kuberay.history import History
from deployments.kuberay.manifests import Manifest, ray_service
from tests.k8s.api_server import KINDS, ApiServer, serving
from tests.k8s.rendering import rendered

DONE = {"conditions": [{"type": "Complete", "status": "True"}]}
SERVING = {
    "observedGeneration": 99,
    "conditions": [{"type": "Ready", "status": "True", "reason": "NonZeroServeEndpoints"}],
    "activeServiceStatus": {"applicationStatuses": {"llm-backend": {"status": "RUNNING"}}},
}
STARTING = {
    "observedGeneration": 99,
    "conditions": [{"type": "Ready", "status": "False", "reason": "Initializing"}],
    "pendingServiceStatus": {"applicationStatuses": {"llm-backend": {"status": "DEPLOYING"}}},
}

Run = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    server = ApiServer()
    server.becomes = {"Job": DONE, "RayService": SERVING}
    with serving(server):
        yield server


@pytest.fixture
def run(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``llm-backend k8s …`` with a kubeconfig that leads to the server."""
    _kubeconfig(tmp_path / "config", f"http://127.0.0.1:{server.server_port}", monkeypatch)

    def run(*arguments: object) -> Result:
        result = CliRunner().invoke(app, ["k8s", *map(str, arguments)])
        assert not result.exception or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def _kubeconfig(path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    clusters, users = [{"name": "c", "cluster": {"server": url}}], [{"name": "u", "user": {}}]
    told = {"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [context]}
    path.write_text(yaml.safe_dump({**told, "clusters": clusters, "users": users}))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))


@pytest.fixture
def manifests() -> list[Manifest]:
    return rendered("dev")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[list[Manifest]], Path]:
    def write(manifests: list[Manifest]) -> Path:
        path = tmp_path / "manifests.yaml"
        path.write_text(yaml.safe_dump_all(manifests))
        return path

    return write


Write = Callable[[list[Manifest]], Path]


def test_everything_is_applied_and_the_rayservice_last(
    run: Run, server: ApiServer, manifests: list[Manifest], write: Write
) -> None:
    result = run("apply", write(manifests))
    assert result.exit_code == 0, result.output
    assert {(each["kind"], each["metadata"]["name"]) for each in manifests} <= set(server.objects)
    patched = [path for method, path in server.requests if method == "PATCH"]
    assert "rayservices" in patched[-2]
    assert "controllerrevisions" in patched[-1]
    assert "Job llm-backend-db-migrate: complete" in result.output
    assert "serving" in result.output


def test_applying_the_same_again_changes_nothing(
    run: Run, server: ApiServer, manifests: list[Manifest], write: Write
) -> None:
    run("apply", write(manifests))
    result = run("apply", write(manifests))
    assert result.exit_code == 0
    assert "created" not in result.output
    assert "changed" not in result.output.replace("unchanged", "")
    assert server.names("ControllerRevision") == ["llm-backend-1"]


def test_a_failed_migration_leaves_the_rayservice_as_it_was(
    run: Run, server: ApiServer, manifests: list[Manifest], write: Write
) -> None:
    server.becomes["Job"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    labels = {"batch.kubernetes.io/job-name": "llm-backend-db-migrate"}
    server.put("Pod", "migrate-1", metadata={"labels": labels})
    server.logs["migrate-1"] = "first\nThe store did not start: 28P01.\n"
    result = run("apply", write(manifests))
    assert result.exit_code == 1
    assert "The store did not start: 28P01." in result.output
    assert "Job llm-backend-db-migrate failed" in result.output
    assert server.names("RayService") == []


def test_a_job_that_changed_is_run_again(run: Run, server: ApiServer, manifests: list[Manifest], write: Write) -> None:
    run("apply", write(manifests))
    newer = json.loads(json.dumps(manifests).replace("llm-backend:0.1.0", "llm-backend:0.1.1"))
    result = run("apply", write(newer))
    assert result.exit_code == 0, result.output
    assert "0.1.1" in json.dumps(server.objects["Job", "llm-backend-db-migrate"])


def test_secrets_that_must_be_there_are_asked_for_before_anything_is_applied(
    run: Run, server: ApiServer, write: Write
) -> None:
    keys = {"LLM_BACKEND_API_KEY": "eA==", "CHATBOT_UI_API_KEY": "eA=="}
    server.put("Secret", "llm-backend-keys", data=keys)
    result = run("apply", write(rendered("prod")))
    assert result.exit_code == 1
    assert "Secret llm-backend-database, key DATABASE_URL" in result.output
    assert "llm-backend-keys" not in result.output
    assert not [path for method, path in server.requests if method == "PATCH"]


def test_manifests_that_break_a_rule_are_not_applied(
    run: Run, server: ApiServer, manifests: list[Manifest], write: Write
) -> None:
    ray_service(manifests)["spec"]["rayClusterConfig"]["rayVersion"] = "2.9.0"
    for command in ("validate", "apply"):
        result = run(command, write(manifests))
        assert result.exit_code == 1
        assert "rayVersion is 2.9.0" in result.output
    assert server.requests == []


def test_a_rehearsal_changes_nothing(run: Run, server: ApiServer, manifests: list[Manifest], write: Write) -> None:
    result = run("apply", write(manifests), "--dry-run")
    assert result.exit_code == 0
    assert "RayService llm-backend: would be created" in result.output
    assert server.objects == {}


def test_a_cluster_without_kuberay_is_told_so(
    run: Run, server: ApiServer, manifests: list[Manifest], write: Write
) -> None:
    server.kinds = {version: kinds for version, kinds in KINDS.items() if version != "ray.io/v1"}
    result = run("apply", write(manifests))
    assert result.exit_code == 1
    assert "RayService llm-backend: this cluster lacks the operator for it" in result.output


def test_fields_of_another_manager_are_not_taken_without_being_told_to(
    run: Run, server: ApiServer, manifests: list[Manifest], write: Write
) -> None:
    server.managed_by["Deployment", "chatbot-ui"] = "kubectl-edit"
    result = run("apply", write(manifests))
    assert result.exit_code == 1
    assert 'conflict with "kubectl-edit"' in result.output
    assert run("apply", write(manifests), "--force").exit_code == 0


def test_a_cluster_that_does_not_answer_is_one_line(
    run: Run, tmp_path: Path, manifests: list[Manifest], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kubeconfig(tmp_path / "nowhere", "http://127.0.0.1:9", monkeypatch)
    result = run("status")
    assert result.exit_code == 1
    assert "does not answer" in result.output
    assert "Traceback" not in result.output


def test_without_a_kubeconfig_the_answer_is_one_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    result = run("status")
    assert result.exit_code == 1
    assert result.output.startswith("No cluster to talk to: ")


def test_going_back_brings_the_last_manifest_and_can_be_gone_back_from(
    run: Run, server: ApiServer, manifests: list[Manifest], write: Write
) -> None:
    run("apply", write(manifests))
    newer = copy.deepcopy(manifests)
    ray_service(newer)["spec"]["rayClusterDeletionDelaySeconds"] = 7
    run("apply", write(newer))
    result = run("rollback")
    assert result.exit_code == 0, result.output
    live = server.objects["RayService", "llm-backend"]
    assert live["spec"] == ray_service(manifests)["spec"]
    assert live["metadata"]["annotations"] == ray_service(manifests)["metadata"]["annotations"]
    run("rollback", "--to", 2)
    assert server.objects["RayService", "llm-backend"]["spec"]["rayClusterDeletionDelaySeconds"] == 7
    assert run("rollback", "--list").output.count("\n") == 4
    assert "there are: 1, 2, 3, 4" in run("rollback", "--to", 9).output


def test_only_the_newest_revisions_are_kept(run: Run, server: ApiServer) -> None:
    with connected(None, "llm-backend") as cluster:
        history = History(cluster, "llm-backend")
        for number in range(12):
            history.remember({"spec": {"number": number}})
        assert [each.number for each in history.revisions()] == list(range(3, 13))


def test_deleting_leaves_data_and_secrets(run: Run, server: ApiServer, manifests: list[Manifest], write: Write) -> None:
    run("apply", write(manifests))
    result = run("delete", write(manifests), "--yes")
    assert result.exit_code == 0, result.output
    left = {kind for kind, _ in server.objects}
    assert left == {"Namespace", "PersistentVolumeClaim", "PersistentVolume", "Secret"}
    deleted = [path for method, path in server.requests if method == "DELETE"]
    assert "rayservices" in deleted[0]
    assert run("delete", write(manifests), "--yes", "--data-too").exit_code == 0
    assert server.objects == {}


LABELS = {"app.kubernetes.io/name": "llm-backend", "ray.io/is-ray-node": "yes", "ray.io/group": "cpu"}


def test_a_service_that_does_not_come_says_why(
    run: Run, server: ApiServer, manifests: list[Manifest], write: Write
) -> None:
    server.becomes["RayService"] = STARTING
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    status = {"phase": "Pending", "containerStatuses": [waiting]}
    server.put("Pod", "w", metadata={"labels": LABELS}, status=status)
    result = run("apply", write(manifests), "--timeout", "0")
    assert result.exit_code == 1
    assert "pending llm-backend: DEPLOYING" in result.output
    assert "does not serve after 0 s: pod w: ImagePullBackOff no such image" in result.output
    seen = run("status")
    assert seen.exit_code == 1
    assert "ImagePullBackOff" in seen.output


def test_a_spec_that_the_operator_has_not_seen_yet_does_not_count_as_serving(
    run: Run, server: ApiServer, manifests: list[Manifest], write: Write
) -> None:
    server.becomes["RayService"] = {**SERVING, "observedGeneration": 0}
    assert run("apply", write(manifests), "--timeout", "0").exit_code == 1


def test_the_status_of_a_service_that_serves_is_a_success(
    run: Run, server: ApiServer, manifests: list[Manifest], write: Write
) -> None:
    run("apply", write(manifests))
    result = run("status")
    assert result.exit_code == 0
    assert "active llm-backend" in result.output
    assert run("wait").exit_code == 0


def test_a_reload_changes_nothing_but_what_makes_serve_start_the_replicas_anew(
    run: Run, server: ApiServer, manifests: list[Manifest], write: Write
) -> None:
    run("apply", write(manifests))
    assert run("reload").exit_code == 0
    before, after = ray_service(manifests)["spec"], server.objects["RayService", "llm-backend"]["spec"]
    told, reloaded = (yaml.safe_load(spec.pop("serveConfigV2")) for spec in (before, after))
    stamp = reloaded["applications"][0].pop("runtime_env")["env_vars"].pop("LLM_BACKEND_RELOADED")
    assert float(stamp) > 0
    assert (before, told) == (after, reloaded)


def test_logs_come_from_every_running_pod(run: Run, server: ApiServer) -> None:
    for name, phase in (("head", "Running"), ("worker", "Running"), ("next", "Pending")):
        server.put("Pod", name, metadata={"labels": LABELS}, status={"phase": phase})
        server.logs[name] = f"one of {name}\ntwo of {name}\nlast, unfinished"
    result = run("logs", "--tail", 7)
    assert result.exit_code == 0, result.output
    assert "head one of head" in result.output
    assert "worker last, unfinished" in result.output
    assert "next" not in result.output
    assert all("-n+7" in path or "-n%207" in path for method, path in server.requests if method == "EXEC")


def test_a_service_that_is_not_there_is_said_to_be(run: Run) -> None:
    result = run("status")
    assert result.exit_code == 1
    assert "There is no RayService llm-backend in the namespace llm-backend" in result.output
