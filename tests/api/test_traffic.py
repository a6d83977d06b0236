from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from serve_app.api.traffic import Traffic


class Road:
    """Lines that wait until they are let go."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.on_it: list[int] = []
        self.most = 0
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.go = asyncio.Event()

    async def send(self, *names: int) -> None:
        for name in names:
            self.tasks[name] = asyncio.create_task(self._line(name))
        await settle()

    async def _line(self, name: int) -> None:
        async with self.traffic.line():
            self.on_it.append(name)
            self.most = max(self.most, len(self.on_it))
            try:
                await self.go.wait()
            finally:
                self.on_it.remove(name)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_lines_enter_in_order_and_no_more_than_the_bound() -> None:
    road = Road(Traffic(first=3))
    await road.send(*range(5))
    assert road.on_it == [0, 1, 2]
    road.tasks[1].cancel()
    await settle()
    assert road.on_it == [0, 2, 3]
    road.go.set()
    await asyncio.gather(*road.tasks.values(), return_exceptions=True)
    assert (road.on_it, road.most) == ([], 3)


async def test_a_line_that_leaves_while_it_waits_takes_no_place() -> None:
    road = Road(Traffic(first=1))
    await road.send(0, 1, 2)
    road.tasks[1].cancel()
    await settle()
    road.tasks[0].cancel()
    await settle()
    assert road.on_it == [2]


async def test_the_bound_grows_with_what_flows_and_halves_in_a_jam() -> None:
    traffic = Traffic(most=8, first=2)
    for _ in range(200):
        traffic.flowed()
    road = Road(traffic)
    await road.send(*range(20))
    assert len(road.on_it) == 8
    traffic.jammed()
    for name in range(4):
        road.tasks[name].cancel()
    await settle()
    assert len(road.on_it) == 4
    for _ in range(20):
        traffic.jammed()
    for name in range(4, 8):
        road.tasks[name].cancel()
    await settle()
    assert len(road.on_it) == 1, "a jam never stops everything for good"


async def test_lines_trickle_while_somebody_waits_for_an_answer() -> None:
    traffic = Traffic(first=4)
    road = Road(traffic)
    with traffic.interactive():
        await road.send(*range(6))
        assert road.on_it == [0]
        traffic.flowed()
    await settle()
    assert road.on_it == [0, 1, 2, 3]


@pytest.mark.parametrize(("guests", "left"), [(1, 4), (2, 2), (9, 1)])
async def test_who_comes_while_lines_are_under_way_makes_them_fewer(guests: int, left: int) -> None:
    traffic = Traffic(first=8)
    road = Road(traffic)
    await road.send(0)
    async with AsyncExitStack() as stack:
        for _ in range(guests):
            stack.enter_context(traffic.interactive())
    await road.send(*range(1, 20))
    assert len(road.on_it) == left
