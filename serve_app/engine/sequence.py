"""One row of text in the making, and the two numbers that say what is left to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from serve_app.protocol import Tier


class Status(IntEnum):
    """In order of life; a preempted sequence goes back to WAITING and computes its tokens again."""

    WAITING = 0
    RUNNING = 1
    FINISHED = 2


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens known (prompt, then generated) and how many of them the model has computed.

    There is no prefill phase and no decode phase: a step lets ``computed`` catch up with ``tokens``, and a sequence
    that has caught up is ready to be sampled. ``score_prompt``: the logits of every prompt position are wanted.
    ``after``: another sequence with the same prompt that computes it for both. ``salt`` is the tenant, ``weight`` its
    part of the model: one of weight 2 gets twice what one of weight 1 gets when both want more than there is.
    """

    tokens: list[int]
    salt: str
    n_prompt: int = field(init=False)
    score_prompt: bool = False
    tier: Tier = Tier.DEFAULT
    weight: float = 1.0
    after: Sequence | None = None
    computed: int = 0
    seq_id: int | None = None
    status: Status = Status.WAITING

    def __post_init__(self) -> None:
        self.n_prompt = len(self.tokens)

    @property
    def n_pending(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def is_decoding(self) -> bool:
        """One token behind, and that token was generated: the cheap, latency-critical kind of work."""
        return self.n_pending == 1 and self.computed >= self.n_prompt

    @property
    def prompt_done(self) -> bool:
        return self.computed >= self.n_prompt

    @property
    def blocked(self) -> bool:
        """Waiting costs less than computing the same prompt twice."""
        leader = self.after
        return leader is not None and leader.status is not Status.FINISHED and not leader.prompt_done

    def append(self, token: int) -> None:
        self.tokens.append(token)


@dataclass(frozen=True, slots=True)
class Chunk:
    """``tokens[start:start + count]`` of one sequence; the logits of its last ``rows`` positions are wanted."""

    sequence: Sequence
    start: int
    count: int
    rows: int
    first_row: int
    """Index of the first wanted row among all wanted rows of the plan."""

    @property
    def is_decode(self) -> bool:
        """One generated token, not a piece of a prompt (or of what is computed again)."""
        return self.count == 1 and self.start >= self.sequence.n_prompt
