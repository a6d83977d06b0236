"""Scheduler and SlotPool against a simulated memory, to exhaustion."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine.scheduler import Plan, Scheduler
from serve_app.engine.sequence import Sequence, Status
from serve_app.engine.slots import Lease, SlotPool
from serve_app.protocol import Tier
from tests.engine.fake_llama import Memory, next_token

_STEM = list(range(40))
_PROMPTS = st.builds(
    lambda stem, tail: (_STEM[:stem] + tail) or [1], st.integers(0, 40), st.lists(st.integers(0, 3), max_size=12)
)


class House:
    """Carries out what scheduler and pool decide, and checks every promise on the way."""

    def __init__(
        self, n_slots: int, n_batch: int, n_prefill: int, n_rows: int, n_cells: int, n_resident: int = 0
    ) -> None:
        self.pool = SlotPool(n_slots, n_resident=n_resident)
        self.memory = Memory(n_cells)
        self.limits = (n_batch, n_prefill, n_rows)
        self.scheduler = Scheduler(self.pool, n_batch=n_batch, n_prefill=n_prefill, n_rows=n_rows, n_cells=n_cells)
        self.order: list[Sequence] = []
        self.goals: dict[int, int] = {}
        self.salts: dict[int, str] = {}
        self.failed: set[int] = set()

    @property
    def open(self) -> list[Sequence]:
        return [sequence for sequence in self.order if sequence.status is not Status.FINISHED]

    def add(
        self,
        prompt: list[int],
        n: int,
        salt: str,
        choices: int,
        *,
        score: bool = False,
        tier: Tier = Tier.DEFAULT,
    ) -> None:
        leader: Sequence | None = None
        for _ in range(choices):
            sequence = Sequence(list(prompt), salt, score_prompt=score, tier=tier, after=leader)
            leader = leader or sequence
            self.goals[id(sequence)] = len(prompt) + n
            self.order.append(sequence)
            self.scheduler.add(sequence)

    def admit(self) -> None:
        for sequence, lease in self.scheduler.admit():
            self._check_lease(sequence, lease)
            self.memory.forget(lease.seq_id, lease.keep)
            if lease.source is not None:
                self.memory.share(lease.source, lease.seq_id, lease.shared)
            self.salts[lease.seq_id] = sequence.salt
            assert self.memory.tokens(lease.seq_id) == sequence.tokens[: sequence.computed]

    def _check_lease(self, sequence: Sequence, lease: Lease) -> None:
        assert sequence.computed == lease.reused < len(sequence.tokens)
        if lease.reused:
            origin = lease.seq_id if lease.source is None else lease.source
            assert self.salts[origin] == sequence.salt, "a prefix crossed tenants"
            held = self.memory.tokens(origin)
            assert held[: lease.reused] == sequence.tokens[: lease.reused], "not a common prefix"
        if sequence.after and not sequence.after.score_prompt and sequence.after.status is Status.RUNNING:
            assert lease.reused >= sequence.n_prompt - 1, "a prompt was computed twice"

    def step(self) -> bool:
        self.admit()
        plan = self.scheduler.plan()
        if not plan:
            assert not self.open, "work is left and nothing is planned"
            return False
        self._check_plan(plan)
        if not self.memory.fits(plan):
            self._relieve()
            return True
        for chunk in plan:
            self.memory.write(chunk)
        for chunk in self.scheduler.commit(plan):
            sequence = chunk.sequence
            if not sequence.n_pending:
                self._sample(sequence)
        self.pool.check()
        return True

    def _sample(self, sequence: Sequence) -> None:
        if len(sequence.tokens) == self.goals[id(sequence)]:
            self.scheduler.finish(sequence)
        else:
            sequence.append(next_token(sequence.tokens))

    def _relieve(self) -> None:
        idle = self.pool.forget_oldest()
        if idle is not None:
            self.memory.forget(idle, 0)
        elif self.scheduler.preempt_youngest() is None:
            self.failed.add(id(largest := self.scheduler.largest()))
            self.scheduler.finish(largest)

    def _check_plan(self, plan: Plan) -> None:
        n_batch, n_prefill, n_rows = self.limits
        running = [sequence for sequence in self.order if sequence.status is Status.RUNNING]
        if any(sequence.tier < Tier.BATCH for sequence in running):
            running = [sequence for sequence in running if sequence.tier < Tier.BATCH]
        decoding = [sequence for sequence in running if sequence.is_decoding]
        assert [chunk.sequence for chunk in plan[: len(decoding)]] == sorted(decoding, key=self._place)
        assert all(chunk.count == chunk.rows == 1 for chunk in plan[: len(decoding)]), "a stream was starved"
        prompts = plan[len(decoding) :]
        assert sum(chunk.count for chunk in plan) <= n_batch
        assert sum(chunk.rows for chunk in plan) <= n_rows
        assert not decoding or sum(chunk.count for chunk in prompts) <= n_prefill
        waiting = sorted(set(running) - set(decoding), key=lambda sequence: (sequence.tier, self._place(sequence)))
        assert [chunk.sequence for chunk in prompts] == waiting[: len(prompts)], "not oldest first"
        rows = 0
        for chunk in plan:
            assert chunk.first_row == rows
            rows += chunk.rows

    def _place(self, sequence: Sequence) -> int:
        return self.scheduler._running.index(sequence)


@st.composite
def houses(draw: st.DrawFn, min_cells: int = 60) -> House:
    n_slots = draw(st.integers(1, 6))
    n_batch = draw(st.integers(max(n_slots, 2), 24))
    return House(
        n_slots,
        n_batch,
        draw(st.integers(1, 16)),
        draw(st.integers(n_slots, 12)),
        draw(st.integers(min_cells, 200)),
        draw(st.integers(0, 12)),
    )


_REQUESTS = st.tuples(
    _PROMPTS, st.integers(0, 8), st.sampled_from("ab"), st.integers(1, 3), st.booleans(), st.sampled_from(Tier)
)
_ACTIONS = st.one_of(_REQUESTS, st.sampled_from(["step", "step", "step", "abort", "preempt", "no space"]))


@settings(max_examples=300, deadline=None)
@given(houses(), st.lists(_ACTIONS, max_size=40), st.randoms(use_true_random=False))
def test_whatever_comes_every_chunk_continues_the_memory_and_every_sequence_finishes(house, actions, random) -> None:
    for action in actions:
        match action:
            case "step":
                house.step()
            case "abort" if house.open:
                house.scheduler.finish(random.choice(house.open))
            case "preempt":
                house.scheduler.preempt_youngest()
            case "no space" if house.scheduler.n_running:
                house._relieve()
            case (prompt, n, salt, choices, score, tier):
                house.add(prompt, n, salt, choices, score=score, tier=tier)
        house.pool.check()
    steps = 0
    while house.step():
        steps += 1
        assert steps < 5000, "no progress"
    assert house.pool.n_busy == 0
    assert house.scheduler.n_running == house.scheduler.n_waiting == 0


@settings(max_examples=60, deadline=None)
@given(houses(), st.lists(_PROMPTS, min_size=1, max_size=6))
def test_a_lone_sequence_that_fits_is_never_failed(house, prompts) -> None:
    for prompt in prompts:
        house.add(prompt, 7, "a", 1)
    while house.step():
        pass
    assert not house.failed
    assert all(len(sequence.tokens) == house.goals[id(sequence)] for sequence in house.order)


@given(_PROMPTS, _PROMPTS)
def test_reuse_is_the_true_common_prefix_and_leaves_a_token_to_compute(first, second) -> None:
    pool = SlotPool(2)
    left = Sequence(first, "a")
    pool.acquire(left)
    left.computed = len(first)
    pool.release(left)
    lease = pool.acquire(Sequence(second, "a"))
    common = next(
        (at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    assert lease is not None
    assert lease.reused == min(common, len(second) - 1)


def test_no_prefix_is_found_under_another_salt() -> None:
    pool = SlotPool(3)
    left = Sequence([1, 2, 3, 4], "a")
    pool.acquire(left)
    left.computed = 4
    pool.release(left)
    lease = pool.acquire(Sequence([1, 2, 3, 4, 5], "b"))
    assert lease is not None
    assert lease.reused == 0


def test_models_that_cannot_forget_a_suffix_reuse_nothing() -> None:
    pool = SlotPool(1, reuse=False)
    left = Sequence([1, 2, 3], "a")
    pool.acquire(left)
    left.computed = 3
    pool.release(left)
    assert pool.acquire(Sequence([1, 2, 3, 4], "a")) == Lease(0, keep=0)


def test_who_was_sent_away_for_lack_of_space_waits_until_something_was_computed() -> None:
    house = House(2, 8, 8, 8, 100)
    house.add([1, 2], 3, "a", 1)
    house.add([3, 4], 3, "a", 1)
    house.admit()
    sent = house.scheduler.preempt_youngest()
    house.admit()
    assert sent is not None
    assert sent.status is Status.WAITING
    house.step()
    house.admit()
    assert sent.status is Status.RUNNING
