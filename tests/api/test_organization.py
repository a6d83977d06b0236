"""``/v1/organization``, through the official client: every answer is what its types and the specification say."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.admin.organization import AdminAPIKey, AdminAPIKeyCreateResponse, Project
from openai.types.admin.organization.projects import (
    ProjectAPIKey,
    ProjectServiceAccount,
    ServiceAccountCreateResponse,
)

from tests.api.contract import conforms, typed
from tests.api.everything import MODEL, Everything
from tests.api.keyed import KeyedHouse, keyed_house
from tests.api.serving import failure

ORGANIZATION = "/v1/organization"
OURS = frozenset({"models", "weight"})


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[KeyedHouse]:
    async with keyed_house(tmp_path, {MODEL: Everything()}) as house:
        yield house


@pytest.fixture
async def admin(house: KeyedHouse) -> AsyncGenerator[AsyncOpenAI]:
    _, text = await house.make("admin", project=None)
    async with house.openai(text) as client:
        yield client


@pytest.fixture
async def raw(house: KeyedHouse) -> AsyncGenerator[httpx.AsyncClient]:
    _, text = await house.make("admin", project=None)
    async with house.client(text) as client:
        yield client


async def status_of(house: KeyedHouse, text: str) -> int:
    async with house.client(text) as client:
        return (await client.get("/v1/models")).status_code


async def test_an_admin_key_is_made_listed_used_and_deleted(house: KeyedHouse, admin: AsyncOpenAI) -> None:
    keys = admin.admin.organization.admin_api_keys
    made = await keys.create(name="second", expires_in_seconds=3600)
    assert made.expires_at == pytest.approx(time.time() + 3600, abs=5)
    async with house.openai(made.value) as second:
        listed = [key async for key in second.admin.organization.admin_api_keys.list(limit=1)]
        assert [key.id for key in listed][1:] == [made.id]
        newest = [key async for key in second.admin.organization.admin_api_keys.list(order="desc")]
        assert newest == listed[::-1]
        assert (await keys.retrieve(made.id)).redacted_value == f"{made.value[:9]}...{made.value[-4:]}"
        assert (await keys.delete(made.id)).deleted
        with pytest.raises(openai.AuthenticationError):
            await second.admin.organization.admin_api_keys.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        await keys.retrieve(made.id)


async def test_a_project_its_account_and_its_key_from_the_beginning_to_the_end(
    house: KeyedHouse, admin: AsyncOpenAI
) -> None:
    projects = admin.admin.organization.projects
    project = await projects.create(name="team")
    account = await projects.service_accounts.create(project.id, name="robot", extra_body={"models": [MODEL]})
    assert account.api_key is not None
    async with house.openai(account.api_key.value) as robot:
        answer = await robot.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}], store=True
        )
        assert (await robot.chat.completions.retrieve(answer.id)).id == answer.id
        with pytest.raises(openai.PermissionDeniedError):
            await robot.chat.completions.create(model="other", messages=[{"role": "user", "content": "Hi"}])
        with pytest.raises(openai.PermissionDeniedError):
            await robot.admin.organization.projects.retrieve(project.id)
        second = await projects.service_accounts.api_keys.create(account.id, project_id=project.id, name="spare")
        async with house.openai(second.value) as spare:
            assert (await spare.chat.completions.retrieve(answer.id)).id == answer.id
    listed = [key async for key in projects.api_keys.list(project.id, limit=1)]
    assert [key.id for key in listed] == [account.api_key.id, second.id]
    assert listed[0].owner.service_account is not None
    assert listed[0].owner.service_account.name == "robot"
    assert (await projects.api_keys.delete(second.id, project_id=project.id)).deleted
    assert await status_of(house, second.value) == 401
    assert (await projects.archive(project.id)).status == "archived"
    assert await status_of(house, account.api_key.value) == 401
    assert project.id not in [one.id async for one in projects.list()]
    assert project.id in [one.id async for one in projects.list(include_archived=True)]


async def test_a_deleted_account_s_keys_open_nothing(house: KeyedHouse, admin: AsyncOpenAI) -> None:
    projects = admin.admin.organization.projects
    project = await projects.create(name="team")
    account = await projects.service_accounts.create(project.id, name="robot")
    assert account.api_key is not None
    assert await status_of(house, account.api_key.value) == 200
    renamed = await projects.service_accounts.update(account.id, project_id=project.id, name="cyborg")
    assert renamed.name == "cyborg"
    assert [one.id async for one in projects.service_accounts.list(project.id)] == [account.id]
    assert (await projects.service_accounts.delete(account.id, project_id=project.id)).deleted
    assert await status_of(house, account.api_key.value) == 401
    bare = await projects.service_accounts.create(project.id, name="x", create_service_account_only=True)
    assert bare.api_key is None


async def test_what_a_key_may_can_be_changed(house: KeyedHouse, raw: httpx.AsyncClient) -> None:
    key_id, text = await house.make(models=("other",))
    async with house.client(text) as client:
        assert (await client.get(f"/v1/models/{MODEL}")).status_code == 404
        path = f"{ORGANIZATION}/projects/proj_first/api_keys/{key_id}"
        changed = (await raw.post(path, json={"models": [MODEL], "weight": 4, "expires_in_seconds": 60})).json()
        assert (changed["models"], changed["weight"]) == ([MODEL], 4)
        assert (await client.get(f"/v1/models/{MODEL}")).status_code == 200
        assert (await raw.post(path, json={"models": []})).json()["models"] is None


async def test_every_answer_is_what_the_sdk_and_the_specification_say(raw: httpx.AsyncClient) -> None:
    async def asked(method: str, path: str, schema: str, body: Any = None) -> Any:
        answer = await raw.request(method, ORGANIZATION + path, json=body)
        assert answer.status_code == 200, (path, answer.text)
        conforms(schema, answer.json())
        return answer.json()

    made = await asked("POST", "/admin_api_keys", "AdminApiKeyCreateResponse", {"name": "a"})
    typed(AdminAPIKeyCreateResponse, made)
    for key in (await asked("GET", "/admin_api_keys", "ApiKeyList"))["data"]:
        typed(AdminAPIKey, key)
    typed(AdminAPIKey, await asked("GET", f"/admin_api_keys/{made['id']}", "AdminApiKey"))
    project = await asked("POST", "/projects", "Project", {"name": "p"})
    of = f"/projects/{project['id']}"
    for one in [project, await asked("GET", of, "Project"), await asked("POST", of, "Project", {"name": "q"})]:
        typed(Project, one)
    await asked("GET", "/projects", "ProjectListResponse")
    account = await asked(
        "POST", f"{of}/service_accounts", "ProjectServiceAccountCreateResponse", {"name": "robot", "weight": 2.5}
    )
    typed(ServiceAccountCreateResponse, account)
    one_account = f"{of}/service_accounts/{account['id']}"
    typed(ProjectServiceAccount, await asked("GET", one_account, "ProjectServiceAccount"))
    await asked("GET", f"{of}/service_accounts", "ProjectServiceAccountListResponse")
    for key in (await asked("GET", f"{of}/api_keys", "ProjectApiKeyListResponse"))["data"]:
        typed(ProjectAPIKey, key, extras=OURS)
        typed(ProjectAPIKey, await asked("GET", f"{of}/api_keys/{key['id']}", "ProjectApiKey"), extras=OURS)
        await asked("DELETE", f"{of}/api_keys/{key['id']}", "ProjectApiKeyDeleteResponse")
    await asked("DELETE", one_account, "ProjectServiceAccountDeleteResponse")
    await asked("POST", f"{of}/archive", "Project")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/admin_api_keys", {}, "name"),
        ("/admin_api_keys", {"name": ""}, "name"),
        ("/admin_api_keys", {"name": "x", "expires_in_seconds": 0}, "expires_in_seconds"),
        ("/projects", {"name": "x", "residency": "GLOBAL"}, "residency"),
        ("/projects/proj_first/service_accounts", {"name": "x", "weight": 0}, "weight"),
        ("/projects/proj_first/service_accounts", {"name": "x", "models": [""]}, "models[0]"),
        ("/projects/proj_first/service_accounts", {"name": "x", "scopes": ["api.all"]}, "scopes"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    raw: httpx.AsyncClient, path: str, body: dict[str, Any], param: str
) -> None:
    answer = await raw.post(ORGANIZATION + path, json=body)
    assert (answer.status_code, failure(answer)["param"]) == (400, param)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin_api_keys/key_none"),
        ("GET", "/admin_api_keys/key_robot"),
        ("DELETE", "/admin_api_keys/%00"),
        ("GET", "/projects/proj_none"),
        ("POST", "/projects/proj_none/archive"),
        ("POST", "/projects/proj_none/service_accounts"),
        ("GET", "/projects/proj_none/api_keys/key_2"),
        ("DELETE", "/projects/proj_first/api_keys/key_1"),
        ("POST", "/projects/proj_first/service_accounts/svcacct_none/api_keys"),
    ],
)
async def test_what_is_not_there_is_404(house: KeyedHouse, raw: httpx.AsyncClient, method: str, path: str) -> None:
    """``key_1`` is the organization's, ``key_2`` a project's: neither is found as the other."""
    await house.make()
    body = {"name": "x"} if method == "POST" else None
    assert (await raw.request(method, ORGANIZATION + path, json=body)).status_code == 404


async def test_a_new_key_is_never_kept_to_be_sent_again(raw: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "once"}
    answer = await raw.post(f"{ORGANIZATION}/admin_api_keys", json={"name": "x"}, headers=headers)
    assert (answer.status_code, failure(answer)["param"]) == (400, "Idempotency-Key")


async def test_the_text_of_a_key_is_in_the_answer_that_made_it_and_nowhere_else(
    raw: httpx.AsyncClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    made = (await raw.post(f"{ORGANIZATION}/admin_api_keys", json={"name": "x"})).json()
    seen = [(await raw.get(f"{ORGANIZATION}/admin_api_keys")).text, caplog.text]
    seen += [file.read_bytes().decode("latin-1") for file in tmp_path.iterdir() if file.is_file()]  # noqa: ASYNC240
    assert made["id"] in seen[0]
    assert not [text for text in seen if made["value"] in text]
