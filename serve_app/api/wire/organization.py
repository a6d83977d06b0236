"""What is sent about keys, projects and service accounts, and how they are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from serve_app.api.listing import ID, Number
from serve_app.api.wire.shape import Shape, unsupported
from serve_app.protocol import Account, Json, Key, Project, Secret

ObjectName = Annotated[str, Field(min_length=1, max_length=256)]
Lifetime = Annotated[int, Field(ge=1, le=10 * 366 * 86_400)]
Models = Annotated[list[Annotated[str, Field(min_length=1, max_length=512)]], Field(max_length=256)]
Weight = Annotated[float, Field(ge=0.01, le=100)]


def _refuse(data: Any, names: Sequence[str]) -> Any:
    """For fields of OpenAI's that mean nothing here, when they ask for anything."""
    for name in names:
        if isinstance(data, dict) and data.get(name) not in (None, []):
            raise unsupported("is not known here", at=name)
    return data


class NewAdminKey(Shape):
    name: ObjectName
    expires_in_seconds: Lifetime | None = None


class ProjectShape(Shape):
    name: ObjectName | None = None

    @model_validator(mode="before")
    @classmethod
    def _elsewhere(cls, data: Any) -> Any:
        return _refuse(data, ("external_key_id", "geography", "residency"))


class NewProject(ProjectShape):
    name: ObjectName


class Allowed(Shape):
    """What a project's key may. ``models`` and ``weight`` are ours; an empty list of models allows all."""

    expires_in_seconds: Lifetime | None = None
    models: Models | None = None
    weight: Weight | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_openais_scopes(cls, data: Any) -> Any:
        return _refuse(data, ("scopes",))


class NewAccount(Allowed):
    name: ObjectName
    create_service_account_only: bool = False


class NewAccountKey(Allowed):
    name: ObjectName | None = None


class KeyUpdate(Allowed):
    name: ObjectName | None = None


class AccountUpdate(Shape):
    name: ObjectName | None = None
    role: Literal["member"] | None = None


class Paging(Shape):
    """The query string of a list."""

    after: str | None = Field(None, pattern=ID)
    limit: Annotated[Number, Field(ge=1, le=100)] = 20


class KeyPaging(Paging):
    order: Literal["asc", "desc"] = "asc"


class ProjectPaging(Paging):
    include_archived: Literal["true", "false"] = "false"


class ProjectKeyPaging(Paging):
    owner_project_access: Literal["active", "inactive", "any"] = "any"


def admin_key_json(key: Key, secret: Secret | None = None) -> Json:
    """OpenAI's object; ``value`` when it was made just now. Its owner is whoever operates this server."""
    owner = {"type": "user", "object": "organization.user", "id": "operator", "name": "operator", "role": "owner"}
    shape = _key_json("organization.admin_api_key", key, owner | {"created_at": int(key.created_s)})
    return shape if secret is None else shape | {"value": secret.text}


def _key_json(kind: str, key: Key, owner: Json) -> Json:
    return {
        "object": kind,
        "id": key.id,
        "name": key.name,
        "redacted_value": key.hint,
        "created_at": int(key.created_s),
        "expires_at": _moment(key.expires_s),
        "last_used_at": None,
        "owner": owner,
    }


def project_json(project: Project) -> Json:
    return {
        "object": "organization.project",
        "id": project.id,
        "name": project.name,
        "created_at": int(project.created_s),
        "archived_at": _moment(project.archived_s),
        "status": "active" if project.archived_s is None else "archived",
    }


def project_key_json(key: Key, account: Account | None) -> Json:
    """OpenAI's object, and what the key may."""
    owner: Json = {}
    if account is not None:
        theirs = {"id": account.id, "name": account.name, "created_at": int(account.created_s), "role": "member"}
        owner = {"type": "service_account", "service_account": theirs}
    return _key_json("organization.project.api_key", key, owner) | {
        "owner_project_access": "active",
        "models": None if key.models is None else list(key.models),
        "weight": key.weight,
    }


def account_json(account: Account) -> Json:
    return {
        "object": "organization.project.service_account",
        "id": account.id,
        "name": account.name,
        "role": "member",
        "created_at": int(account.created_s),
    }


def account_key_json(key: Key, secret: Secret) -> Json:
    """A key that was made just now: the only time that its text is told."""
    return {
        "object": "organization.project.service_account.api_key",
        "id": key.id,
        "name": key.name,
        "value": secret.text,
        "created_at": int(key.created_s),
        "expires_at": _moment(key.expires_s),
    }


def _moment(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
