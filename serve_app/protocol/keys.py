"""API keys: who may ask for what, in whose name. A key is known by its digest; its text is shown once, when made."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, Protocol, get_args

Scope = Literal["inference", "admin"]
"""``inference``: everything but ``/v1/organization``, which is ``admin``."""

SCOPES: tuple[Scope, ...] = get_args(Scope)

ENTROPY_BYTES = 32
_SHAPE = re.compile(r"sk-lb-[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Secret:
    """The text of a key. It never shows in a repr, and nothing that is kept has a field for it."""

    text: str = field(repr=False)

    @classmethod
    def of(cls, entropy: bytes) -> Secret:
        """From ``ENTROPY_BYTES`` bytes that nobody can guess: so many that a digest needs neither salt nor time."""
        if len(entropy) != ENTROPY_BYTES:
            raise ValueError(f"a key is made of {ENTROPY_BYTES} random bytes")
        return cls("sk-lb-" + urlsafe_b64encode(entropy).rstrip(b"=").decode())

    @property
    def digest(self) -> str:
        return sha256(self.text.encode()).hexdigest()

    @property
    def hint(self) -> str:
        """Enough to tell one's keys apart; 216 of its 256 bits stay unknown."""
        return f"{self.text[:9]}...{self.text[-4:]}"


def is_ours(text: str) -> bool:
    """Whether the text has the form of a key made here. Says nothing about whether there is such a key."""
    return _SHAPE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Project:
    """Whose data it is: the keys of one project see the same. Its id is the tenant. Times are since the epoch."""

    id: str
    name: str
    created_s: float
    archived_s: float | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """A service account: a program that has keys of a project."""

    id: str
    project: str
    name: str
    created_s: float


@dataclass(frozen=True, slots=True)
class Key:
    """What a key may. ``project`` and ``account`` None: it belongs to the organization (scope ``admin`` alone).

    ``models``: the ids it may call, None for all. ``weight``: its part of a model when more is wanted than there is.
    """

    id: str
    name: str
    hint: str
    scopes: tuple[Scope, ...]
    created_s: float
    project: str | None = None
    account: str | None = None
    models: tuple[str, ...] | None = None
    weight: float = 1.0
    expires_s: float | None = None
    revoked_s: float | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A digest that opens the door as ``key``, until ``until_s``."""

    digest: str = field(repr=False)
    key: Key
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Keyset:
    """Every key that is not revoked and whose project is not archived. ``version`` grows with every change;
    0: no key was ever made."""

    version: int = 0
    held: tuple[Held, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """A page of keys, by creation. ``organization``: those of no project; otherwise those of ``project``, or all."""

    project: str | None = None
    organization: bool = False
    revoked: bool = False
    after: str | None = None
    limit: int = 20
    newest_first: bool = False


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What a key shall be from now on; None leaves it as it is, no ``models`` at all lets it call any."""

    name: str | None = None
    models: tuple[str, ...] | None = None
    weight: float | None = None
    expires_s: float | None = None


@dataclass(frozen=True, slots=True)
class KeyPage:
    """``data`` in order, the ``accounts`` of those that have one; ``has_more``: there is another page after it."""

    data: tuple[Key, ...]
    has_more: bool
    accounts: tuple[Account, ...] = ()


@dataclass(frozen=True, slots=True)
class ProjectPage:
    """By creation, oldest first."""

    data: tuple[Project, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class AccountPage:
    """By creation, oldest first."""

    data: tuple[Account, ...]
    has_more: bool


class Keys(Protocol):
    """Every method raises ``StoreError`` when the database cannot answer; pages raise ``CursorNotFound``.

    Other processes may change keys at any time (the command line does). What was acknowledged is in the next keyset.
    """

    async def keyset(self, known: int | None) -> Keyset | None:
        """As it is now; None where its version is still ``known``."""
        ...

    async def add(self, key: Key, digest: str, account: Account | None = None) -> bool:
        """With its account, where that is new. False: its project or its account does not exist, or is archived."""
        ...

    async def key(self, key_id: str) -> Key | None: ...

    async def keys(self, query: KeyQuery) -> KeyPage: ...

    async def change(self, key_id: str, change: KeyChange) -> Key | None:
        """None: there is no such key, or it is revoked."""
        ...

    async def rotate(self, key_id: str, secret: tuple[str, str], overlap_s: float) -> Key | None:
        """Another digest and hint for the same key; the former digest opens for ``overlap_s`` more. None as above."""
        ...

    async def revoke(self, key_id: str) -> Key | None:
        """For good. Revoking it again changes nothing; None: there is no such key."""
        ...

    async def open_project(self, project: Project) -> Project:
        """The oldest project of that name that is not archived, or else this one, added."""
        ...

    async def add_project(self, project: Project) -> None: ...

    async def project(self, project_id: str) -> Project | None: ...

    async def projects(self, after: str | None, limit: int, archived: bool) -> ProjectPage: ...

    async def rename_project(self, project_id: str, name: str) -> Project | None:
        """None: there is none, or it is archived."""
        ...

    async def archive_project(self, project_id: str) -> Project | None:
        """Its keys open nothing any more. For good."""
        ...

    async def add_account(self, account: Account) -> bool:
        """False: its project does not exist, or is archived."""
        ...

    async def account(self, project_id: str, account_id: str) -> Account | None: ...

    async def accounts(self, project_id: str, after: str | None, limit: int) -> AccountPage: ...

    async def rename_account(self, project_id: str, account_id: str, name: str) -> Account | None: ...

    async def delete_account(self, project_id: str, account_id: str) -> bool:
        """Its keys are revoked with it."""
        ...
