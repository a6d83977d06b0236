"""`tilt up`, as far as it can be known without Tilt and a cluster: what it would build, apply, forward and run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from deployments.kuberay.check import check
from deployments.kuberay.manifests import Manifest, containers, of_kind, pod_templates, ray_service
from tests.k8s.rendering import ROOT
from tests.k8s.tilt import Recorded, run

KEY = "sk-cloud-0123456789"


@pytest.fixture(scope="module")
def plain() -> Recorded:
    """With no key and no settings, beside no checkout of chatbot-ui."""
    return run({}, {})


@pytest.fixture(scope="module")
def full() -> Recorded:
    return run({"with-ui": True}, {"OPENAI_API_KEY": KEY})


def secret(recorded: Recorded) -> dict[str, str]:
    (found,) = (each for each in of_kind(recorded.objects, "Secret") if each["metadata"]["name"] == "llm-backend-keys")
    data: dict[str, str] = found["stringData"]
    return data


def test_without_a_key_only_the_openai_route_is_off(plain: Recorded) -> None:
    assert "OPENAI_API_KEY" not in secret(plain)
    assert any("OPENAI_API_KEY is not set" in line for line in plain.printed)
    assert check(plain.objects).errors == []


def test_a_key_goes_into_the_secret_and_is_shown_nowhere(full: Recorded) -> None:
    assert secret(full)["OPENAI_API_KEY"] == KEY
    others = [each for each in full.objects if each["kind"] != "Secret"]
    assert KEY not in json.dumps([full.printed, others])
    shown = {name: calls for name, calls in full.calls.items() if name in ("local_resource", "docker_build", "print")}
    assert KEY not in str(shown)


def test_the_chat_page_can_be_left_out(plain: Recorded, full: Recorded) -> None:
    assert "chatbot-ui" in str([each["metadata"]["name"] for each in full.objects])
    for kind in ("Deployment", "Service"):
        assert of_kind(plain.objects, kind) != of_kind(full.objects, kind)
    assert "chatbot-ui" not in plain.resources()
    assert [each["ref"] for each in plain.all("docker_build")] == ["llm-backend"]


def test_another_upstream_is_a_plain_setting() -> None:
    told = run({"openai-base-url": "http://upstream.test/v1"}, {})
    (settings,) = (each for each in of_kind(told.objects, "ConfigMap") if "-env-" in each["metadata"]["name"])
    assert settings["data"]["OPENAI_BASE_URL"] == "http://upstream.test/v1"


def test_everything_fits_together(full: Recorded) -> None:
    findings = check(full.objects)
    assert findings.errors == []
    assert findings.expected == []


def test_every_built_image_is_used_and_every_own_image_is_built(full: Recorded) -> None:
    built = {each["ref"] for each in full.all("docker_build")}
    images = {each["image"].rpartition(":")[0] for _, t in pod_templates(full.objects) for each in containers(t)}
    assert built == images - {"postgres"}


def test_the_paths_to_the_images_lead_to_every_container_of_the_rayservice(full: Recorded) -> None:
    (kind,) = full.all("k8s_kind")
    service = ray_service(full.objects)
    assert (kind["kind"], kind["api_version"]) == (service["kind"], service["apiVersion"])
    found = [image for path in kind["image_json_path"] for image in _resolve(service, path)]
    templates = [template for _, template in pod_templates([service])]
    assert found == [each["image"] for template in templates for each in containers(template)]


def _resolve(manifest: Manifest, path: str) -> list[Any]:
    """A JSONPath of the form that Kubernetes knows: ``{.a.b[*].c}``."""
    found: list[Any] = [manifest]
    for step in re.findall(r"\.(\w+)(\[\*\])?", path):
        name, each = step
        found = [one[name] for one in found]
        if each:
            found = [inner for one in found for inner in one]
    return found


def test_the_pods_that_kuberay_makes_are_found(full: Recorded) -> None:
    resource = full.resources()["llm-backend"]
    (selector,) = resource["extra_pod_selectors"]
    ray = [template for source, template in pod_templates(full.objects) if source.startswith("RayService")]
    assert ray
    assert all(selector.items() <= template["metadata"]["labels"].items() for template in ray)


def test_what_a_resource_waits_for_is_there(full: Recorded) -> None:
    resources = full.resources()
    for name, resource in resources.items():
        assert set(resource.get("resource_deps") or []) <= set(resources), name


def test_every_resource_of_the_cluster_is_an_object(full: Recorded) -> None:
    names = {each["metadata"]["name"] for each in full.objects}
    assert {each["workload"] for each in full.all("k8s_resource")} <= names


def test_the_page_the_api_and_the_dashboard_are_on_their_ports_and_no_port_is_taken_twice(full: Recorded) -> None:
    forwarded = [port for each in full.all("k8s_resource") for port in each["port_forwards"] or []]
    served = [shlex.split(each["serve_cmd"]) for each in full.all("local_resource") if each["serve_cmd"]]
    by_hand = {words[-2].removeprefix("svc/"): words[-1] for words in served}
    assert by_hand == {"llm-backend-serve-svc": "8000:8000", "llm-backend-head-svc": "8265:8265"}
    ports = [each.split(":")[0] for each in [*forwarded, *by_hand.values()]]
    assert sorted(ports) == ["3000", "5432", "8000", "8265"]


def test_the_operator_is_installed_in_the_version_that_is_supported(full: Recorded) -> None:
    (chart,) = full.all("helm_resource")
    assert "--version=1.7.0" in chart["flags"]
    policies = of_kind(full.objects, "NetworkPolicy")
    assert f"kubernetes.io/metadata.name': '{chart['namespace']}'" in str(policies)
    assert run({"operator": False}, {}).all("helm_resource") == []


def test_only_clusters_on_ones_own_machine_are_touched(full: Recorded) -> None:
    (allowed,) = full.all("allow_k8s_contexts")
    kind = (ROOT / "k8s" / "kind-config.yaml").read_text()
    assert "name: llm" in kind
    assert "kind-llm" in allowed["contexts"]


def test_changed_code_is_copied_to_where_the_image_has_it(full: Recorded) -> None:
    (image,) = (each for each in full.all("docker_build") if each["ref"] == "llm-backend")
    synced = {step[1]: step[2] for step in image["live_update"] if step[0] == "sync"}
    assert synced == {name: f"/app/{name}" for name in ("serve_app", "deployments", "config")}
    assert image["live_update"][0][0] == "fall_back_on"
    watched = [*synced, *image["live_update"][0][1:]]
    assert all((ROOT / path).exists() for path in watched)
    assert set(watched) <= set(image["only"])
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {path for line in copied for path in line.split()} <= set(image["only"])


def test_commands_name_what_is_there(full: Recorded) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for resource in full.all("local_resource"):
        for path in resource["deps"] or []:
            assert (ROOT / path).exists(), path
        words = shlex.split(str(resource["cmd"]))
        if words[:1] == ["make"]:
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in words[1:])
        for overlay in re.findall(r"k8s/overlays/\w+", str(resource["cmd"])):
            assert (ROOT / overlay / "kustomization.yaml").exists()


def test_a_tiltfile_that_misspells_an_argument_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "Tiltfile"
    wrong.write_text("k8s_resource('llm-backend', port_forward=['1:1'])")
    with pytest.raises(Exception, match="port_forward"):
        run({}, {}, wrong)
