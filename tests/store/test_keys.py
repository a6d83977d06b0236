from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.protocol import Account, CursorNotFound, Key, KeyChange, KeyQuery, Keyset, Project, Secret
from serve_app.store import SqlStore
from tests.store.entries import T0, FakeClock

PROJECT = Project("proj_1", "first", T0)
ACCOUNT = Account("acct_1", "proj_1", "robot", T0)
KEY = Key("key_1", "robot", "sk-lb-x...abcd", ("inference",), T0, "proj_1", "acct_1", ("llama", "gpt-4"), 2.5, T0 + 60)
ADMIN = Key("key_2", "boss", "sk-lb-y...efgh", ("admin",), T0 + 1)


async def opened_by(store: SqlStore) -> dict[str, str]:
    """Key id by digest."""
    found = await store.keys.keyset(None)
    assert found is not None
    return {held.digest: held.key.id for held in found.held}


@pytest.fixture
async def keyed(store: SqlStore) -> SqlStore:
    await store.keys.add_project(PROJECT)
    assert await store.keys.add(KEY, "digest-1", ACCOUNT)
    assert await store.keys.add(ADMIN, "digest-2")
    return store


async def test_before_the_first_key_the_keyset_has_no_version(store: SqlStore) -> None:
    assert await store.keys.keyset(None) == Keyset(0, ())
    assert await store.keys.keyset(0) is None


async def test_a_key_is_found_whole_by_its_digest(keyed: SqlStore) -> None:
    found = await keyed.keys.keyset(None)
    assert found is not None
    assert {(held.digest, held.key, held.until_s) for held in found.held} == {
        ("digest-1", KEY, T0 + 60),
        ("digest-2", ADMIN, None),
    }
    assert await keyed.keys.key("key_1") == KEY
    assert await keyed.keys.keyset(found.version) is None


async def test_every_change_of_what_opens_the_door_makes_a_new_version(keyed: SqlStore) -> None:
    changes = [
        keyed.keys.add(replace(KEY, id="key_3"), "digest-3"),
        keyed.keys.change("key_1", KeyChange(name="other")),
        keyed.keys.rotate("key_1", ("digest-4", "hint"), 10),
        keyed.keys.revoke("key_3"),
        keyed.keys.delete_account("proj_1", "acct_1"),
        keyed.keys.archive_project("proj_1"),
    ]
    for change in changes:
        before = await keyed.keys.keyset(None)
        assert await change
        after = await keyed.keys.keyset(before.version if before else None)
        assert before is not None
        assert after is not None
        assert after.version > before.version


async def test_a_rotated_key_opens_with_both_until_the_overlap_is_over(keyed: SqlStore, clock: FakeClock) -> None:
    turned = await keyed.keys.rotate("key_1", ("digest-new", "sk-lb-n...ew"), 30)
    assert turned == replace(KEY, hint="sk-lb-n...ew")
    found = await keyed.keys.keyset(None)
    assert found is not None
    until = {held.digest: held.until_s for held in found.held if held.key.id == "key_1"}
    assert until == {"digest-new": T0 + 60, "digest-1": min(clock.now + 30, T0 + 60)}


async def test_a_key_is_changed_where_it_is_said_and_nowhere_else(keyed: SqlStore) -> None:
    assert await keyed.keys.change("key_1", KeyChange(weight=0.5)) == replace(KEY, weight=0.5)
    named = await keyed.keys.change("key_1", KeyChange(name="x", models=("a",), expires_s=T0 + 9))
    assert named == replace(KEY, weight=0.5, name="x", models=("a",), expires_s=T0 + 9)
    assert await keyed.keys.change("key_1", KeyChange(models=())) == replace(named, models=None)
    assert await keyed.keys.change("key_1", KeyChange()) == replace(named, models=None)


async def test_a_revoked_key_opens_nothing_and_is_still_known(keyed: SqlStore) -> None:
    revoked = await keyed.keys.revoke("key_1")
    assert revoked is not None
    assert revoked.revoked_s is not None
    assert await opened_by(keyed) == {"digest-2": "key_2"}
    assert await keyed.keys.revoke("key_1") == revoked
    assert await keyed.keys.change("key_1", KeyChange(weight=2)) is None
    assert await keyed.keys.rotate("key_1", ("digest-9", "h"), 0) is None
    assert (await keyed.keys.keys(KeyQuery())).data == (ADMIN,)
    assert (await keyed.keys.keys(KeyQuery(revoked=True))).data == (revoked, ADMIN)
    assert await keyed.keys.revoke("key_9") is None


async def test_an_archived_project_s_keys_open_nothing_and_it_takes_no_more(keyed: SqlStore) -> None:
    archived = await keyed.keys.archive_project("proj_1")
    assert archived is not None
    assert archived.archived_s is not None
    assert await opened_by(keyed) == {"digest-2": "key_2"}
    assert not await keyed.keys.add(replace(KEY, id="key_3"), "digest-3")
    assert not await keyed.keys.add_account(replace(ACCOUNT, id="acct_2"))
    assert await keyed.keys.rename_project("proj_1", "x") is None
    assert (await keyed.keys.projects(None, 10, archived=False)).data == ()
    assert (await keyed.keys.projects(None, 10, archived=True)).data == (archived,)


async def test_a_deleted_account_s_keys_are_revoked(keyed: SqlStore) -> None:
    assert not await keyed.keys.delete_account("proj_other", "acct_1")
    assert await keyed.keys.delete_account("proj_1", "acct_1")
    assert await opened_by(keyed) == {"digest-2": "key_2"}
    assert not await keyed.keys.add(replace(KEY, id="key_3"), "digest-3")
    assert (await keyed.keys.accounts("proj_1", None, 10)).data == ()


async def test_pages_of_keys_are_of_one_project_or_of_the_organization(keyed: SqlStore) -> None:
    more = [replace(KEY, id=f"key_{n}", created_s=T0 + n) for n in range(3, 6)]
    for key in more:
        assert await keyed.keys.add(key, f"digest-{key.id}")
    first = await keyed.keys.keys(KeyQuery(project="proj_1", limit=2))
    assert (first.data, first.has_more, first.accounts) == ((KEY, more[0]), True, (ACCOUNT,))
    rest = await keyed.keys.keys(KeyQuery(project="proj_1", limit=2, after=more[0].id))
    assert (rest.data, rest.has_more) == ((more[1], more[2]), False)
    newest = await keyed.keys.keys(KeyQuery(project="proj_1", newest_first=True, after=more[1].id))
    assert newest.data == (more[0], KEY)
    assert (await keyed.keys.keys(KeyQuery(organization=True))).data == (ADMIN,)
    with pytest.raises(CursorNotFound):
        await keyed.keys.keys(KeyQuery(after="key_none"))


async def test_a_project_of_a_name_is_made_once_however_many_ask(store: SqlStore) -> None:
    asked = [store.keys.open_project(Project(f"proj_{n}", "team", T0 + n)) for n in range(8)]
    assert len({project.id for project in await asyncio.gather(*asked)}) == 1
    assert len((await store.keys.projects(None, 10, archived=True)).data) == 1


async def test_another_process_sees_a_key_that_was_made_here(keyed: SqlStore, url: str) -> None:
    other = await SqlStore.open(url)
    try:
        assert await opened_by(other) == await opened_by(keyed)
        await other.keys.revoke("key_1")
    finally:
        await other.close()
    assert await opened_by(keyed) == {"digest-2": "key_2"}


def test_a_secret_has_all_its_entropy_and_shows_none_of_it() -> None:
    secret = Secret.of(bytes(range(32)))
    assert secret.text.startswith("sk-lb-")
    assert len(secret.text) == 6 + 43
    assert secret.text not in repr(secret)
    assert secret.text not in secret.hint
    with pytest.raises(ValueError, match="32 random bytes"):
        Secret.of(b"short")
