"""SlotPool: which sequence id of the llama context is whose, and which prefixes are resident in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from serve_app.engine.sequence import Sequence


@dataclass(slots=True, eq=False)
class Slot:
    """One ``seq_id``. Owned by a sequence, or idle with the tokens it left behind (``resident``), newest use last."""

    seq_id: int
    salt: str = ""
    idle: list[int] = field(default_factory=list)
    owner: Sequence | None = None
    used: int = 0

    @property
    def n_resident(self) -> int:
        return self.owner.computed if self.owner else len(self.idle)

    def shared_with(self, tokens: list[int]) -> int:
        """Length of the longest prefix of ``tokens`` whose KV cells this slot holds."""
        own = self.owner.tokens if self.owner else self.idle
        return _common_prefix(own, tokens, min(self.n_resident, len(tokens)))


@dataclass(frozen=True, slots=True)
class Lease:
    """What must happen in the KV cache before the sequence may run in ``seq_id``.

    Keep the first ``keep`` cells of the slot itself (0: forget all), then, if ``source`` is given, share the first
    ``shared`` cells of that sequence id.
    """

    seq_id: int
    keep: int
    source: int | None = None
    shared: int = 0

    @property
    def reused(self) -> int:
        return max(self.keep, self.shared)


class SlotPool:
    """Owner of all sequence ids. Knows no llama: it decides, the engine carries out.

    ``n_slots`` sequences run at most; ``n_resident`` sequence ids keep prefixes, so that those who wait for their next
    turn, or were sent back, find theirs again. Prefixes are found within one ``salt`` (the tenant) only, so that nobody
    can time another's prompts.
    ``reuse`` is off for models whose memory cannot forget a suffix (recurrent and hybrid ones).
    """

    def __init__(self, n_slots: int, *, n_resident: int | None = None, reuse: bool = True) -> None:
        self._slots = [Slot(seq_id) for seq_id in range(max(n_slots, n_resident or n_slots))]
        self._n_slots = n_slots
        self._reuse = reuse
        self._tick = 0

    @property
    def n_busy(self) -> int:
        return sum(slot.owner is not None for slot in self._slots)

    @property
    def n_busy_cells(self) -> int:
        """Cells that running sequences hold or will hold once their known tokens are computed."""
        return sum(len(slot.owner.tokens) for slot in self._slots if slot.owner)

    def acquire(self, sequence: Sequence) -> Lease | None:
        """Give the sequence a slot, reusing the longest resident prefix; None when every slot is busy.

        At least one token is always left to compute: logits exist only for what is computed.
        """
        idle = [slot for slot in self._slots if slot.owner is None]
        if len(self._slots) - len(idle) >= self._n_slots:
            return None
        lease = self._choose(idle, sequence)
        slot = self._slots[lease.seq_id]
        self._tick += 1
        slot.owner, slot.salt, slot.idle, slot.used = sequence, sequence.salt, [], self._tick
        sequence.seq_id, sequence.computed = slot.seq_id, lease.reused
        return lease

    def _choose(self, idle: list[Slot], sequence: Sequence) -> Lease:
        target = self._least_wanted(idle)
        # A prompt whose logits are wanted must be computed whole.
        if not self._reuse or sequence.score_prompt:
            return Lease(target.seq_id, keep=0)
        most = len(sequence.tokens) - 1
        best, length = target, 0
        for slot in self._slots:
            if slot.salt == sequence.salt and slot.n_resident > length:
                shared = min(slot.shared_with(sequence.tokens), most)
                if shared > length:
                    best, length = slot, shared
        if best.owner is None and length >= best.n_resident - 1:
            return Lease(best.seq_id, keep=length)  # the new text continues it: nothing of value is overwritten
        if best is target:
            return Lease(target.seq_id, keep=length)
        return Lease(target.seq_id, keep=0, source=best.seq_id, shared=length) if length else Lease(target.seq_id, 0)

    def release(self, sequence: Sequence) -> None:
        """The sequence leaves; what it computed stays resident until the space is needed."""
        slot = self._slots[self._seq_id(sequence)]
        slot.idle = sequence.tokens[: sequence.computed]
        slot.owner, sequence.seq_id = None, None
        self._tick += 1
        slot.used = self._tick

    def forget_oldest(self) -> int | None:
        """An idle prefix is given up: its seq_id, to be cleared; None when there is none."""
        filled = [slot for slot in self._slots if slot.owner is None and slot.idle]
        if not filled:
            return None
        slot = self._least_wanted(filled)
        slot.idle = []
        return slot.seq_id

    @staticmethod
    def _least_wanted(idle: list[Slot]) -> Slot:
        """An empty slot, else the least recently used of the tenant that keeps most: nobody pushes out the others."""
        kept: dict[str, int] = {}
        for slot in idle:
            kept[slot.salt] = kept.get(slot.salt, 0) + len(slot.idle)
        return min(idle, key=lambda slot: (len(slot.idle) > 0, -kept[slot.salt], slot.used))

    def _seq_id(self, sequence: Sequence) -> int:
        if sequence.seq_id is None or self._slots[sequence.seq_id].owner is not sequence:
            raise RuntimeError("a sequence that owns no slot was released")
        return sequence.seq_id

    def check(self) -> None:
        """Raises unless the books are straight: every owner knows its slot, nobody computed more than it has."""
        for slot in self._slots:
            owner = slot.owner
            if owner and (owner.seq_id != slot.seq_id or owner.computed > len(owner.tokens) or slot.idle):
                raise RuntimeError(f"slot {slot.seq_id} and its owner disagree")


def _common_prefix(left: list[int], right: list[int], limit: int) -> int:
    """Length of the common prefix, at most ``limit``; by halving, since comparing slices runs in C."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
