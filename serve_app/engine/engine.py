"""Engine: the thread that owns the Llama. inbox -> step() -> sinks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from serve_app.engine.figures import EngineOptions, EngineStats
from serve_app.engine.generation import Generation, Job
from serve_app.engine.inbox import Inbox, Message
from serve_app.engine.llama import Decoded, Llama
from serve_app.engine.scheduler import Plan, Scheduler
from serve_app.engine.sequence import Chunk, Sequence, Status
from serve_app.engine.slots import Lease, SlotPool
from serve_app.engine.thread import EngineThread
from serve_app.protocol import Delta, Done, Event, Failed, FailureCode, Started

_log = logging.getLogger("llm_backend.engine")

Outbox = list[tuple[Job, list[Event]]]


class EngineLost(Exception):
    """llama.cpp is in an unknown state; the process must be replaced."""


class Engine(EngineThread):
    """One thread, one llama context.

    From any thread: ``start``, ``submit``, ``cancel``, ``close``, ``alive``, ``is_full``, ``stalled_for``, ``stats``.
    Everything else is the engine thread's own. Events leave through ``publish``, called on the engine thread once per
    step with everything the step produced; every job gets exactly one terminal event, unless it is cancelled. When the
    thread dies, all jobs fail with ``engine_lost`` and ``on_death`` is called last: a dead engine must not live on in a
    healthy process.
    """

    def __init__(
        self,
        llama: Llama,
        options: EngineOptions,
        publish: Callable[[Outbox], None],
        on_death: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("engine", on_death, clock)
        self._llama = llama
        self._options = options
        self._publish = publish
        self._slots = SlotPool(options.n_slots, n_resident=options.n_resident, reuse=llama.can_reuse)
        self._scheduler = Scheduler(
            self._slots, n_batch=llama.n_batch, n_prefill=options.n_prefill, n_rows=llama.n_rows, n_cells=llama.n_cells
        )
        self._inbox = Inbox()
        self._jobs: dict[int, Job] = {}
        self._of: dict[int, Generation] = {}
        self._outbox: dict[int, tuple[Job, list[Event]]] = {}
        self._n_steps = self._n_prompt = self._n_generated = self._n_cached = 0
        self._step_s = 0.0
        self._closing = False

    # --- any thread

    def submit(self, job: Job) -> None:
        """Hand a job over. Once the engine has ended it fails at once, published on the caller's thread."""
        refusal = self._inbox.submit(job)
        if refusal:
            self._publish([(job, [refusal])])

    def cancel(self, job: Job) -> None:
        """Applied between two steps; the job's slots are free after at most one step. Late or repeated: no effect."""
        self._inbox.cancel(job)

    def close(self, timeout_s: float = 10.0) -> None:
        """End the thread and free the model. Jobs still running fail with ``server_shutting_down``."""
        self._inbox.close()
        self.join(timeout_s)

    @property
    def is_full(self) -> bool:
        return self._scheduler.n_waiting + self._inbox.size >= self._options.n_queue

    def stats(self) -> EngineStats:
        return EngineStats(
            self._scheduler.n_running,
            self._scheduler.n_waiting,
            self._slots.n_busy,
            self._n_steps,
            self._n_prompt,
            self._n_generated,
            self._n_cached,
            self._step_s,
        )

    # --- engine thread

    def _work(self) -> None:
        while not self._closing:
            self._busy_since = self._clock()
            worked = self.step()
            self._flush()
            if not worked and not self._closing:
                self._busy_since = None
                self._take(self._inbox.wait())

    def _free(self) -> None:
        self._llama.close()

    def step(self) -> bool:
        """Let every sequence catch up by what one batch holds. False: there was nothing to do."""
        for message in self._inbox.drain():
            self._take(message)
        for sequence, lease in self._scheduler.admit():
            self._start(sequence, lease)
        plan = self._scheduler.plan()
        if not plan:
            return False
        began = self._clock()
        match self._llama.decode(plan):
            case Decoded.OK:
                self._scheduler.learn(plan, self._clock() - began)
                self._advance(plan)
            case Decoded.NO_SPACE:
                self._relieve()
            case Decoded.INVALID:
                self._isolate(plan)
            case Decoded.FATAL:
                raise EngineLost
        self._n_steps += 1
        self._step_s += self._clock() - began
        return True

    # inbox

    def _take(self, message: Message) -> None:
        match message:
            case ("submit", Job() as job):
                self._admit(job)
            case ("cancel", Job() as job):
                self._abandon(job)
            case _:
                self._closing = True

    def _admit(self, job: Job) -> None:
        """What cannot even be set up fails alone: nothing has been computed for it."""
        self._jobs[id(job)] = job
        try:
            self._open(job)
        except Exception:
            _log.exception("a job could not be opened")
            self._fail(job, FailureCode.INTERNAL, "The model's engine could not start the request.")

    def _open(self, job: Job) -> None:
        """Sequences for every prompt and choice; the choices of one prompt wait for the first to compute it."""
        for at, prompt in enumerate(job.prompts):
            leader: Sequence | None = None
            for choice in range(job.choices):
                sequence = job.sequence(prompt, leader)
                leader = leader or sequence
                generation = Generation(job, at * job.choices + choice, sequence, self._llama)
                job.generations.append(generation)
                self._of[id(sequence)] = generation
                self._scheduler.add(sequence)
        job.n_open = len(job.generations)

    def _start(self, sequence: Sequence, lease: Lease) -> None:
        """Carry out a lease: from here on the memory holds what the slot pool says it holds."""
        self._llama.forget(lease.seq_id, lease.keep)
        if lease.source is not None:
            self._llama.share(lease.source, lease.seq_id, lease.shared)
        generation = self._of[id(sequence)]
        job = generation.job
        if sequence.after is None and not generation.started:
            job.n_cached += lease.reused
            self._n_cached += lease.reused
        generation.started = True
        if not job.started:
            job.started = True
            self._emit(job, Started(job.n_prompt, job.n_cached))

    # after a step

    def _advance(self, plan: Plan) -> None:
        self._n_prompt += sum(chunk.count for chunk in plan if chunk.start < chunk.sequence.n_prompt)
        self._look(self._scheduler.commit(plan))

    def _look(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            generation = self._of.get(id(chunk.sequence))
            if generation is None:
                continue
            before = generation.n_generated
            delta = generation.look(chunk)
            self._n_generated += generation.n_generated - before
            if delta is not None:
                self._emit(generation.job, delta)
            if generation.finished:
                self._retire(generation)

    def _retire(self, generation: Generation) -> None:
        """One choice is complete; with the last one the job is done."""
        self._scheduler.finish(generation.sequence)
        self._of.pop(id(generation.sequence), None)
        generation.close()
        job = generation.job
        job.n_open -= 1
        if job.n_open == 0:
            self._emit(job, Done(job.usage))
            self._jobs.pop(id(job), None)

    def _relieve(self) -> None:
        """No KV space: give up an idle prefix, else send the youngest back to the queue, else fail the largest."""
        idle = self._slots.forget_oldest()
        if idle is not None:
            self._llama.forget(idle, 0)
            return
        if self._scheduler.preempt_youngest() is not None:
            return
        largest = self._of[id(self._scheduler.largest())]
        self._fail(largest.job, FailureCode.CONTEXT_LENGTH, "The conversation needs more context than the model has.")

    def _isolate(self, plan: Plan) -> None:
        """llama.cpp refused the batch: compute its chunks one by one, so that only the culprit's request fails."""
        for chunk in plan:
            if chunk.sequence.status is not Status.RUNNING:
                continue  # its request failed a moment ago, with another of its choices
            alone = Chunk(chunk.sequence, chunk.start, chunk.count, chunk.rows, first_row=0)
            match self._llama.decode((alone,)):
                case Decoded.OK:
                    self._advance((alone,))
                case Decoded.FATAL:
                    raise EngineLost
                case Decoded.INVALID:
                    self._fail(self._of[id(chunk.sequence)].job, FailureCode.INTERNAL, "The model refused the input.")
                case Decoded.NO_SPACE:
                    return

    # ends

    def _abandon(self, job: Job) -> None:
        """Free everything of a job; no event follows. What it computed stays resident for the next request."""
        if self._jobs.pop(id(job), None) is None:
            return
        for generation in job.generations:
            if self._of.pop(id(generation.sequence), None) is not None:
                self._scheduler.finish(generation.sequence)
                generation.close()

    def _fail(self, job: Job, code: FailureCode, message: str) -> None:
        usage = job.usage
        self._abandon(job)
        self._emit(job, Failed(code, message, usage=usage))

    def _fail_all(self, last_words: Failed) -> None:
        for message in self._inbox.shut(last_words):
            match message:
                case ("submit", Job() as job):
                    self._jobs[id(job)] = job  # handed in but never opened: it must end too
                case ("cancel", Job() as job):
                    self._abandon(job)
        for job in list(self._jobs.values()):
            self._fail(job, last_words.code, last_words.message)
        self._flush()

    def _emit(self, job: Job, event: Started | Delta | Done | Failed) -> None:
        self._outbox.setdefault(id(job), (job, []))[1].append(event)

    def _flush(self) -> None:
        if self._outbox:
            self._publish(list(self._outbox.values()))
            self._outbox = {}
