"""One choice in the making (Generation), and the request it belongs to (Job). Engine thread only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from serve_app.engine.chain import DryTemplate
from serve_app.engine.llama import Llama
from serve_app.engine.reasoning import ReasoningMeter
from serve_app.engine.sampler import Distribution, Mask, Sampled, Sampler
from serve_app.engine.sequence import Chunk, Sequence
from serve_app.engine.text import TextAssembler
from serve_app.protocol import Delta, Event, Finish, Sampling, Tier, TokenLogprob, Usage


@dataclass(slots=True, eq=False)
class Job:
    """A request for the engine: prompts as tokens, ``choices`` answers to each.

    Made on the event loop and handed over whole; from then on its fields belong to the engine thread, except ``sink``,
    which receives the events on the event loop. ``n_context`` is the most tokens a sequence may reach.
    """

    tenant: str
    prompts: tuple[tuple[int, ...], ...]
    sampling: Sampling
    seed: int
    n_context: int
    sink: Callable[[list[Event]], None]
    choices: int = 1
    tier: Tier = Tier.DEFAULT
    weight: float = 1.0
    echo: bool = False
    mask: Callable[[], Mask] | None = None
    dry: DryTemplate | None = None
    reasoning: Callable[[], ReasoningMeter] | None = None
    generations: list[Generation] = field(default_factory=list)
    n_open: int = 0
    n_cached: int = 0
    started: bool = False

    def sequence(self, prompt: tuple[int, ...], leader: Sequence | None) -> Sequence:
        """A row for one answer to the prompt; ``leader`` computes the same prompt."""
        score = self.echo and self.sampling.logprobs is not None
        return Sequence(list(prompt), self.tenant, score_prompt=score, tier=self.tier, weight=self.weight, after=leader)

    @property
    def n_prompt(self) -> int:
        return sum(len(prompt) for prompt in self.prompts)

    @property
    def usage(self) -> Usage:
        n_generated = sum(generation.n_generated for generation in self.generations)
        n_reasoning = sum(generation.n_reasoning for generation in self.generations)
        return Usage(self.n_prompt, n_generated, self.n_cached, n_reasoning)


class Generation:
    """A sequence, its sampler and its text. ``finished`` is set with the last delta, never before."""

    def __init__(self, job: Job, index: int, sequence: Sequence, llama: Llama) -> None:
        self.job = job
        self.index = index
        self.sequence = sequence
        self.n_generated = 0
        self.started = False
        self.finished: Finish | None = None
        self._llama = llama
        self._limit = self._most_tokens(job, sequence)
        mask = job.mask() if job.mask else None
        dry = job.dry.sampler(sequence.tokens) if job.dry else None
        self._sampler = Sampler(llama, job.sampling, job.seed + index, mask, dry)
        self._text = TextAssembler(job.sampling.stop)
        self._reasoning = job.reasoning() if job.reasoning else None
        self._echo = TextAssembler()
        self._n_echoed = 0

    @property
    def n_reasoning(self) -> int:
        return self._reasoning.n_tokens if self._reasoning else 0

    @staticmethod
    def _most_tokens(job: Job, sequence: Sequence) -> int:
        room = job.n_context - len(sequence.tokens)
        wanted = job.sampling.max_tokens
        return room if wanted is None else min(wanted, room)

    def look(self, chunk: Chunk) -> Delta | None:
        """The chunk's logits are there: score the prompt positions among them, then sample if nothing is pending."""
        prompt = self._score(chunk) if self.job.echo else Delta(self.index)
        if self.sequence.n_pending or self.finished:
            return prompt if prompt.text or prompt.logprobs else None
        if self._limit == 0:
            return self._end("length", prompt)
        logits, position = self._llama.logits(chunk, chunk.rows - 1)
        return self._take(self._sampler.sample(logits, position), prompt)

    def _take(self, sampled: Sampled | None, prompt: Delta) -> Delta | None:
        if sampled is None:
            return self._end("stop" if self._sampler.complete else "length", prompt)
        if sampled.token in self._llama.end_tokens:
            return self._end("stop", prompt)
        self.n_generated += 1
        self.sequence.append(sampled.token)
        if self._reasoning:
            self._reasoning.push(self._llama.pieces[sampled.token])
        text, logprobs = self._text.push(self._llama.pieces[sampled.token], sampled.logprob)
        delta = Delta(self.index, prompt.text + text, logprobs=prompt.logprobs + logprobs)
        if self._text.stopped:
            return self._end("stop", delta)
        if self.n_generated >= self._limit:
            return self._end("length", delta)
        return delta if delta.text or delta.logprobs else None

    def _end(self, finish: Finish, delta: Delta) -> Delta:
        self.finished = finish
        text, logprobs = self._text.finish()
        return Delta(self.index, delta.text + text, logprobs=delta.logprobs + logprobs, finish=finish)

    def _score(self, chunk: Chunk) -> Delta:
        """Echo: the prompt's text, with the log-probability of each of its tokens given those before it.

        A preempted sequence computes its prompt again: what was echoed once is not echoed twice.
        """
        tokens = self.sequence.tokens[: self.sequence.n_prompt]
        known: list[TokenLogprob | None] = []
        if self._n_echoed == 0:
            known.append(self._unscored(tokens[0]))
        for index in range(chunk.rows) if self.sequence.score_prompt else ():
            at = chunk.start + chunk.count - chunk.rows + index + 1
            if self._n_echoed + len(known) == at < len(tokens):
                known.append(self._scored(chunk, index, tokens[at]))
        if not self.sequence.score_prompt:
            known += [None] * (len(tokens) - self._n_echoed - len(known))
        parts = [self._echo.push(self._llama.pieces[tokens[self._n_echoed + n]], e) for n, e in enumerate(known)]
        self._n_echoed += len(known)
        if self._n_echoed == len(tokens):
            parts.append(self._echo.finish())
        return Delta(self.index, "".join(p[0] for p in parts), logprobs=tuple(e for p in parts for e in p[1]))

    def _unscored(self, token: int) -> TokenLogprob | None:
        if self.job.sampling.logprobs is None:
            return None
        piece = self._llama.pieces[token]
        return TokenLogprob(piece.decode("utf-8", "replace"), None, piece)

    def _scored(self, chunk: Chunk, index: int, token: int) -> TokenLogprob:
        distribution = Distribution(self._llama.logits(chunk, index)[0])
        return distribution.of(token, self._llama.pieces, self.job.sampling.logprobs or 0)

    def close(self) -> None:
        self._sampler.close()
