"""Who is served when more is wanted than there is."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from serve_app.engine.budget import FIRST, LEAST, STRETCH, PrefillBudget
from serve_app.engine.scheduler import Plan, Scheduler
from serve_app.engine.sequence import Sequence, Status
from serve_app.engine.slots import SlotPool
from serve_app.protocol import Tier


class Machine:
    """A scheduler whose steps cost nothing: counts for whom they were."""

    def __init__(self, n_slots: int, n_resident: int = 0) -> None:
        pool = SlotPool(n_slots, n_resident=n_resident)
        self.scheduler = Scheduler(pool, n_batch=512, n_prefill=128, n_rows=64, n_cells=100_000)
        self.generated: Counter[str] = Counter()
        self.recomputed = 0

    def add(self, tenant: str, n: int, *, tier: Tier = Tier.DEFAULT, weight: float = 1.0) -> list[Sequence]:
        added = [Sequence([ord(tenant[0]), at, *range(8)], tenant, tier=tier, weight=weight) for at in range(n)]
        for sequence in added:
            self.scheduler.add(sequence)
        return added

    def step(self) -> Plan:
        for _ in self.scheduler.admit():
            pass
        plan = self.scheduler.plan()
        for chunk in self.scheduler.commit(plan):
            if not chunk.sequence.n_pending:
                chunk.sequence.append(1)
                self.generated[chunk.sequence.salt] += 1
        self.recomputed += sum(max(0, chunk.count - 10) for chunk in plan)
        return plan

    def run(self, n_steps: int) -> None:
        for _ in range(n_steps):
            self.step()


def test_who_comes_while_one_tenant_holds_every_slot_starts_in_the_next_step() -> None:
    machine = Machine(4, n_resident=16)
    machine.add("hog", 40)
    machine.run(10)
    (late,) = machine.add("newcomer", 1)
    machine.step()
    assert late.status is Status.RUNNING
    assert machine.scheduler.n_running == 4


def test_a_sequence_that_gave_way_goes_on_where_it_was() -> None:
    machine = Machine(2, n_resident=8)
    first = machine.add("hog", 2)
    machine.run(20)
    machine.add("newcomer", 1)
    machine.step()
    (back,) = [sequence for sequence in first if sequence.status is Status.WAITING]
    machine.scheduler.finish(next(sequence for sequence in first if sequence.status is Status.RUNNING))
    before = machine.recomputed
    machine.step()
    assert back.status is Status.RUNNING
    assert machine.recomputed == before


def test_two_who_want_everything_get_half_each() -> None:
    machine = Machine(4, n_resident=16)
    machine.add("hog", 50)
    machine.run(50)
    machine.generated.clear()
    machine.add("other", 50)
    machine.run(200)
    assert abs(machine.generated["hog"] - machine.generated["other"]) <= 8


def test_a_tenant_of_twice_the_weight_gets_twice_as_much() -> None:
    machine = Machine(6, n_resident=24)
    machine.add("heavy", 50, weight=2.0)
    machine.add("light", 50)
    machine.run(300)
    assert 1.7 < machine.generated["heavy"] / machine.generated["light"] < 2.3


def test_nobody_saves_up_idle_time() -> None:
    machine = Machine(1)
    busy = machine.add("busy", 200)
    for sequence in busy[:100]:
        machine.run(2)
        machine.scheduler.finish(sequence)
    machine.add("back", 100)
    served = []
    for _ in range(20):
        machine.step()
        (running,) = machine.scheduler._running
        served.append(running.salt)
        machine.scheduler.finish(running)
    assert 8 <= served.count("busy") <= 12


def test_batch_work_waits_while_anything_else_runs_and_keeps_what_it_has() -> None:
    machine = Machine(4, n_resident=16)
    machine.add("batch", 3, tier=Tier.BATCH)
    machine.run(5)
    before = machine.generated["batch"]
    (question,) = machine.add("user", 1)
    machine.run(5)
    assert machine.generated["batch"] == before
    assert machine.scheduler.n_running == 4
    machine.scheduler.finish(question)
    machine.step()
    assert machine.generated["batch"] == before + 3
    assert machine.recomputed == 0


def test_a_better_tier_takes_the_slot_of_a_worse_one() -> None:
    machine = Machine(2)
    batch = machine.add("batch", 2, tier=Tier.BATCH)
    machine.step()
    users = machine.add("user", 2)
    machine.step()
    assert all(sequence.status is Status.RUNNING for sequence in users)
    assert all(sequence.status is Status.WAITING for sequence in batch)


def test_one_tenants_flood_leaves_the_others_their_prefixes() -> None:
    pool = SlotPool(1, n_resident=4)
    keeper = Sequence(list(range(10)), "quiet")
    for sequence in [keeper, *(Sequence([at] * 10, "flood") for at in range(20))]:
        pool.acquire(sequence)
        sequence.computed = 10
        pool.release(sequence)
    lease = pool.acquire(Sequence([*range(10), 99], "quiet"))
    assert lease is not None
    assert lease.reused == 10


@given(st.integers(1, 32), st.floats(1e-4, 1.0), st.floats(1e-5, 0.1))
def test_a_prompt_stretches_the_steps_of_streams_to_a_known_length(n: int, step_s: float, token_s: float) -> None:
    budget = PrefillBudget(512)
    assert budget.tokens(n) == FIRST
    assert budget.tokens(0) == 512
    for _ in range(100):
        budget.learn(n, 0, step_s)
        budget.learn(n, 64, step_s + 64 * token_s)
    allowed = budget.tokens(n)
    assert LEAST <= allowed <= 512
    assert allowed == LEAST or step_s + allowed * token_s <= STRETCH * step_s * 1.01
