"""What the manifests say fits together, fits this version of the graph, and fits what they run on."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from dotenv import dotenv_values
from typer.main import get_command

from config.settings import RAY_ENV
from deployments.cli import app
from deployments.graph import LONGEST_STREAM_S, GraphArgs
from deployments.kuberay.check import check
from deployments.kuberay.fitness import environment, graph_args, serve_config
from deployments.kuberay.manifests import Manifest, containers, groups, of_kind, pod_templates, ray_service
from tests.k8s.rendering import EVERYTHING, OVERLAYS, ROOT, rendered

every_render = pytest.mark.parametrize("name", EVERYTHING)
every_overlay = pytest.mark.parametrize("name", OVERLAYS)


@every_render
def test_everything_that_is_named_is_there(name: str) -> None:
    findings = check(rendered(name))
    assert findings.errors == []
    allowed = {"llm-backend-keys", "llm-backend-database", "llm-backend-redis"}
    assert {each.name for each in findings.expected} <= allowed


def test_on_ones_own_machine_no_secret_has_to_be_made() -> None:
    assert check(rendered("dev")).expected == []


def test_a_vault_supplies_every_secret() -> None:
    assert check(rendered("base+external-secret")).expected == []


@every_overlay
def test_the_graph_is_the_one_of_serve_config_yaml(name: str) -> None:
    """But for the address, the logs' form, and the graph's arguments, which are arguments it knows."""
    here = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    there = serve_config(ray_service(rendered(name)))
    assert there["http_options"].pop("host") == "0.0.0.0"
    assert there["logging_config"].pop("encoding") == "JSON"
    GraphArgs.model_validate(there["applications"][0].pop("args"))
    del here["http_options"]["host"], here["logging_config"]["encoding"], here["applications"][0]["args"]
    assert there == here


@every_overlay
def test_rays_environment_is_the_measured_one(name: str) -> None:
    """But for how long a leaving replica drains, which differs between one machine and a cluster."""
    manifests = rendered(name)
    expected = {k: v for k, v in dotenv_values(RAY_ENV).items() if "MIN_DRAINING_PERIOD" not in k}
    for group, spec in groups(ray_service(manifests)):
        assert expected.items() <= environment(spec, manifests).items(), group


def test_without_haproxy_replicas_are_not_reached_directly() -> None:
    """Ray would otherwise have a proxy on the head only, and leave finding the replicas to us."""
    manifests = rendered("base")
    _, head = next(iter(groups(ray_service(manifests))))
    assert environment(head, manifests)["RAY_SERVE_ENABLE_DIRECT_INGRESS"] == "0"


@every_render
def test_head_and_workers_have_the_same_environment(name: str) -> None:
    manifests = rendered(name)
    (_, head), *workers = groups(ray_service(manifests))
    for _, worker in workers:
        assert environment(worker, manifests) == environment(head, manifests)


@every_render
def test_every_pod_keeps_to_the_restricted_standard(name: str) -> None:
    for source, template in pod_templates(rendered(name)):
        pod = template["spec"]["securityContext"]
        assert pod["runAsNonRoot"] is True, source
        assert pod["runAsUser"] > 0, source
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, source
        for container in containers(template):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, source
            assert own["capabilities"] == {"drop": ["ALL"]}, source
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), source
            assert "memory" in container["resources"]["limits"], source


@every_render
def test_only_the_head_may_talk_to_the_api_server(name: str) -> None:
    """Its autoscaler does."""
    for source, template in pod_templates(rendered(name)):
        if not source.endswith("group head"):
            assert template["spec"]["automountServiceAccountToken"] is False, source


@every_render
def test_no_key_or_password_is_written_where_it_could_be_read(name: str) -> None:
    """Secrets hold them; variables only name them."""
    for source, template in pod_templates(rendered(name)):
        for variable in (each for container in containers(template) for each in container.get("env", [])):
            if any(word in variable["name"] for word in ("KEY", "PASSWORD", "DATABASE_URL", "TOKEN")):
                assert "secretKeyRef" in variable.get("valueFrom", {}), f"{source}: {variable['name']}"


def test_in_production_no_stream_is_cut_by_an_update_or_a_drained_node() -> None:
    manifests = rendered("prod")
    service = ray_service(manifests)
    assert service["spec"]["rayClusterDeletionDelaySeconds"] >= LONGEST_STREAM_S
    for _, group in groups(service):
        assert float(environment(group, manifests)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) >= LONGEST_STREAM_S


def test_in_production_the_loss_of_one_worker_leaves_one_that_answers() -> None:
    manifests = rendered("prod")
    service = ray_service(manifests)
    (_, worker) = list(groups(service))[1]
    assert worker["minReplicas"] >= 2
    assert graph_args(service)["ingress_replicas"] >= 2
    assert graph_args(service)["ingress_max_replicas_per_node"] == 1
    budget = next(each for each in of_kind(manifests, "PodDisruptionBudget") if "workers" in each["metadata"]["name"])
    assert budget["spec"]["minAvailable"] == worker["minReplicas"] - 1
    assert type(budget["spec"]["minAvailable"]) is int


@every_overlay
def test_the_chat_page_has_a_key_that_the_api_knows(name: str) -> None:
    variables = {each["name"]: each for each in _variables(rendered(name), "Deployment chatbot-ui")}
    reference = variables["OPENAI_API_KEY"]["valueFrom"]["secretKeyRef"]
    assert (reference["name"], reference["key"]) == ("llm-backend-keys", "CHATBOT_UI_API_KEY")
    for secret in of_kind(rendered(name), "Secret"):
        data = secret.get("data", {})
        assert data.get("CHATBOT_UI_API_KEY") == data.get("LLM_BACKEND_API_KEY")
    assert variables["OPENAI_API_HOST"]["value"] == "http://llm-backend-serve-svc:8000"


def _variables(manifests: list[Manifest], source: str) -> list[dict[str, Any]]:
    return [
        each for title, t in pod_templates(manifests) if title == source for each in t["spec"]["containers"][0]["env"]
    ]


@every_overlay
def test_the_page_is_at_the_root_and_the_api_at_v1(name: str) -> None:
    (ingress,) = of_kind(rendered(name), "Ingress")
    (rule,) = ingress["spec"]["rules"]
    routes = {each["path"]: each["backend"]["service"]["name"] for each in rule["http"]["paths"]}
    assert routes == {"/": "chatbot-ui", "/v1": "llm-backend-serve-svc"}


def test_the_gateway_takes_the_place_of_the_ingress() -> None:
    manifests = rendered("base+gateway-api")
    assert of_kind(manifests, "Ingress") == []
    (route,) = of_kind(manifests, "HTTPRoute")
    routes = {rule["matches"][0]["path"]["value"]: rule["backendRefs"][0]["name"] for rule in route["spec"]["rules"]}
    assert routes == {"/": "chatbot-ui", "/v1": "llm-backend-serve-svc"}
    assert all(rule["timeouts"]["request"] == "0s" for rule in route["spec"]["rules"])


@every_render
def test_rays_own_ports_are_closed_to_all_but_ray_and_its_operator(name: str) -> None:
    """Who reaches the dashboard or a worker's port can run code."""
    for policy in of_kind(rendered(name), "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            ports = {port["port"] for port in rule.get("ports", [])}
            peers = [str(peer) for peer in rule["from"]]
            if not ports:
                assert all("ray.io/is-ray-node" in peer for peer in peers)
            if 8265 in ports:
                assert all("kuberay-system" in peer for peer in peers)


@every_render
def test_the_programs_of_jobs_are_commands_of_this_version(name: str) -> None:
    for job in of_kind(rendered(name), "Job"):
        command = job["spec"]["template"]["spec"]["containers"][0]["command"]
        if command[0] == "llm-backend":
            node: Any = get_command(app)
            for word in command[1:]:
                node = node.commands[word]


@every_render
def test_one_version_of_the_image_is_used_everywhere(name: str) -> None:
    images = {each["image"] for _, t in pod_templates(rendered(name)) for each in containers(t)}
    ours = {image.rpartition(":")[2] for image in images if "llm-backend" in image}
    project = (ROOT / "pyproject.toml").read_text()
    assert len(ours) == 1
    assert f'version = "{ours.pop()}"' in project
    assert all(":" in image and not image.endswith(":latest") for image in images)


def test_a_changed_setting_gives_the_rayservice_a_new_name_to_read() -> None:
    """So that KubeRay sees a change and moves to a new cluster."""
    names = {
        str(each["metadata"]["name"]) for name in ("base", "prod") for each in of_kind(rendered(name), "ConfigMap")
    }
    assert len({each for each in names if each.startswith("llm-backend-env-")}) == 2
