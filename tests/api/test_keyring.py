from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from serve_app.api.admission import Admission
from serve_app.api.keyring import Keyring, Tempo
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode, Held, Key, Keyset, Secret, StoreError
from tests.fakes import FakeClock

ROBOT = Secret.of(b"r" * 32)
ALIKE = ROBOT.text[:-1] + ("A" if ROBOT.text[-1] != "A" else "B")
KEY = Key("key_1", "robot", ROBOT.hint, ("inference",), 0.0, "proj_1", models=("llama",), weight=3.0)


class Room:
    """The store's side: its keys, how often it was asked, and what may go wrong."""

    def __init__(self, *held: Held) -> None:
        self.set = Keyset(1 if held else 0, held)
        self.looks = 0
        self.down = False
        self.gate: asyncio.Event | None = None

    def change(self, *held: Held) -> None:
        self.set = Keyset(self.set.version + 1, held)

    async def keyset(self, known: int | None) -> Keyset | None:
        self.looks += 1
        found = self.set
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise StoreError
        return None if found.version == known else found


def asked(*headers: tuple[str, str], peer: str = "127.0.0.1") -> dict[str, Any]:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return {"type": "http", "headers": raw, "client": (peer, 1), "server": None}


def bearing(text: str) -> dict[str, Any]:
    return asked(("authorization", f"Bearer {text}"), peer="8.8.8.8")


class House:
    def __init__(self, *held: Held, static: tuple[str, ...] = (), pause_s: float = 0.0) -> None:
        self.room = Room(*held)
        self.wall, self.time = FakeClock(), FakeClock(0.0)
        self.keyring = Keyring(self.room, clock=self.wall, monotonic=self.time, tempo=Tempo(pause_s=pause_s))
        self.admission = Admission(static, keyring=self.keyring)

    async def refused(self, scope: dict[str, Any]) -> FailureCode:
        with pytest.raises(RequestError) as caught:
            await self.admission.admit(scope)
        return caught.value.failed.code

    async def settled(self) -> None:
        """Everything that could run has run."""
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
def house() -> House:
    return House(Held(ROBOT.digest, KEY))


async def test_a_key_is_its_project_with_all_that_it_may(house: House) -> None:
    for header in (("authorization", f"Bearer {ROBOT.text}"), ("x-api-key", ROBOT.text), ("api-key", ROBOT.text)):
        tenant = await house.admission.admit(asked(header, peer="8.8.8.8"))
        assert (tenant.id, tenant.key, tenant.weight, tenant.models) == ("proj_1", "key_1", 3.0, {"llama"})


async def test_the_store_is_not_asked_for_every_request(house: House) -> None:
    for _ in range(50):
        await house.admission.admit(bearing(ROBOT.text))
    assert house.room.looks == 1


async def test_a_revoked_key_opens_nothing_after_the_stated_time(house: House) -> None:
    await house.admission.admit(bearing(ROBOT.text))
    house.room.change()
    house.time.advance(5.0)
    assert await house.refused(bearing(ROBOT.text)) is FailureCode.UNAUTHENTICATED


async def test_where_it_was_revoked_it_opens_nothing_from_then_on(house: House) -> None:
    await house.admission.admit(bearing(ROBOT.text))
    house.room.change()
    await house.admission.keys_changed()
    assert await house.refused(bearing(ROBOT.text)) is FailureCode.UNAUTHENTICATED


async def test_a_change_is_seen_by_a_look_that_began_after_it(house: House) -> None:
    """The one that is under way may have read the keys before."""
    house.room.gate = asyncio.Event()
    waiting = asyncio.create_task(house.admission.admit(bearing(ROBOT.text)))
    await house.settled()
    assert house.room.looks == 1
    house.room.change()
    changed = asyncio.create_task(house.admission.keys_changed())
    await asyncio.sleep(0)
    house.room.gate.set()
    await asyncio.gather(waiting, changed)
    assert await house.refused(bearing(ROBOT.text)) is FailureCode.UNAUTHENTICATED


async def test_while_it_is_looked_nobody_waits_who_is_known(house: House) -> None:
    await house.admission.admit(bearing(ROBOT.text))
    house.room.gate = asyncio.Event()
    house.time.advance(3.0)
    async with asyncio.timeout(5):
        assert (await house.admission.admit(bearing(ROBOT.text))).id == "proj_1"
    await house.settled()
    assert house.room.looks == 2
    house.room.gate.set()


async def test_a_key_opens_the_door_as_soon_as_it_is_made(house: House) -> None:
    await house.admission.admit(bearing(ROBOT.text))
    new = Secret.of(b"n" * 32)
    house.room.change(Held(ROBOT.digest, KEY), Held(new.digest, replace(KEY, id="key_2")))
    assert (await house.admission.admit(bearing(new.text))).key == "key_2"


async def test_the_first_key_is_not_taken_for_no_key() -> None:
    house = House()
    assert (await house.admission.admit(asked())).id == "local"
    house.room.change(Held(ROBOT.digest, KEY))
    assert (await house.admission.admit(asked(("api-key", ROBOT.text)))).id == "proj_1"
    assert await house.refused(asked()) is FailureCode.UNAUTHENTICATED


async def test_a_door_that_had_keys_stays_one_that_asks(house: House) -> None:
    house.room.change()
    assert await house.refused(asked()) is FailureCode.UNAUTHENTICATED


async def test_many_wrong_keys_at_once_are_one_look_and_no_memory(house: House) -> None:
    await house.admission.admit(bearing(ROBOT.text))
    known = house.keyring._known
    codes = await asyncio.gather(*(house.refused(bearing(Secret.of(n.to_bytes(32)).text)) for n in range(500)))
    assert set(codes) == {FailureCode.UNAUTHENTICATED}
    assert house.room.looks <= 3
    assert house.keyring._known is known


async def test_what_cannot_be_a_key_of_ours_costs_no_look() -> None:
    house = House(Held(ROBOT.digest, KEY), static=("configured",))
    for text in ("nonsense", ROBOT.text[:-1], ROBOT.text + "A", "sk-proj-" + "x" * 43):
        assert await house.refused(bearing(text)) is FailureCode.UNAUTHENTICATED
    assert (await house.admission.admit(bearing("configured"))).key is None
    assert house.room.looks == 0


async def test_unknown_revoked_and_expired_keys_are_refused_alike(house: House) -> None:
    expired, former = Secret.of(b"e" * 32), Secret.of(b"f" * 32)
    now_s = house.wall.now_s
    house.room.change(Held(expired.digest, replace(KEY, expires_s=now_s), now_s), Held(former.digest, KEY, now_s - 1))
    refusals = []
    for text in (ROBOT.text, ALIKE, expired.text, former.text, "nonsense"):
        with pytest.raises(RequestError) as caught:
            await house.admission.admit(bearing(text))
        refusals.append(caught.value.failed)
    assert len(set(refusals)) == 1


async def test_an_expiry_needs_no_look(house: House) -> None:
    house.room.change(Held(ROBOT.digest, KEY, house.wall.now_s + 2))
    await house.admission.admit(bearing(ROBOT.text))
    house.wall.advance(2)
    assert await house.refused(bearing(ROBOT.text)) is FailureCode.UNAUTHENTICATED


async def test_known_keys_open_while_the_store_is_out_for_as_long_as_it_is_said(house: House) -> None:
    await house.admission.admit(bearing(ROBOT.text))
    house.room.down = True
    for _ in range(9):
        house.time.advance(30)
        assert (await house.admission.admit(bearing(ROBOT.text))).id == "proj_1"
        await house.settled()
    assert await house.refused(bearing(ALIKE)) is FailureCode.STORAGE_UNAVAILABLE
    house.time.advance(40)
    assert await house.refused(bearing(ROBOT.text)) is FailureCode.STORAGE_UNAVAILABLE
    house.room.down = False
    assert (await house.admission.admit(bearing(ROBOT.text))).id == "proj_1"


async def test_a_store_never_heard_opens_nothing_but_to_configured_keys() -> None:
    closed, configured = House(), House(static=("configured",))
    closed.room.down = configured.room.down = True
    assert await closed.refused(asked()) is FailureCode.STORAGE_UNAVAILABLE
    assert (await configured.admission.admit(bearing("configured"))).key is None


async def test_without_a_key_a_store_that_goes_out_for_good_changes_nothing() -> None:
    house = House()
    await house.admission.admit(asked())
    house.room.down = True
    house.time.advance(1e6)
    assert (await house.admission.admit(asked())).id == "local"


async def test_what_is_asked_later_is_asked_with_what_the_key_may_then(house: House) -> None:
    assert (await house.admission.again("proj_1", "key_1")).models == {"llama"}
    assert (await house.admission.again("tenant", None)).id == "tenant"
    house.room.change()
    await house.admission.keys_changed()
    with pytest.raises(RequestError) as caught:
        await house.admission.again("proj_1", "key_1")
    assert caught.value.failed.code is FailureCode.UNAUTHENTICATED
