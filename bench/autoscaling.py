"""What Serve's autoscaler makes of 10 -> 10,000 users: a simulation from measured service times.

    python -m bench.autoscaling                                     the ramp of k8s/SIZING.md
    python -m bench.autoscaling --users 10 200 --minutes 5 --max-replicas 4

Taken as they are: the model's autoscaling settings, slots and queue (``deployments.graph`` over ``models.yaml``), Ray's
own arithmetic of replicas and delays, and the engine's measured speed at each number of streams (``bench/results``).
Modelled: users who read and think between two answers; replicas that compute ``slots`` streams and let the others wait
in order of arrival; the emptier of two replicas taken for each request; nodes that take their time to come.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ray.serve.autoscaling_policy import _apply_delay_logic, _apply_scaling_factors
from ray.serve.config import AutoscalingConfig
from rich.console import Console
from rich.table import Table

from config.settings import Replicas, load
from deployments.graph import GraphArgs, compose

RESULTS = Path(__file__).with_name("results") / "first.json"
RAMP = (10, 100, 1000, 10_000)
STEP_S = 0.25
RETRY_S = 1.0
SOON_S = 2.0
"""A first token within this is soon enough."""


@dataclass(frozen=True, slots=True)
class Service:
    """One replica as measured, by the number of its streams: their tokens/s together, and seconds to a first token."""

    streams: tuple[float, ...]
    tokens_per_s: tuple[float, ...]
    first_s: tuple[float, ...]

    def rate(self, n: np.ndarray) -> np.ndarray:
        """Tokens/s of one stream among ``n``."""
        return np.interp(n, self.streams, self.tokens_per_s) / np.maximum(n, 1)

    def wait(self, n: np.ndarray) -> np.ndarray:
        return np.interp(n, self.streams, self.first_s)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the graph gives a replica of the model."""

    scaling: AutoscalingConfig
    slots: int
    queue: int


@dataclass(frozen=True, slots=True)
class Place:
    """Nodes: how many replicas fit on one, how many there are at first, and how long a node and a replica take."""

    replicas_per_node: int = 4
    nodes: int = 2
    node_start_s: float = 120.0
    replica_start_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Behaviour:
    """A user reads an answer of ``tokens`` and thinks, ``think_s`` in the mean, before the next question.

    New users come evenly over ``arrive_s``.
    """

    think_s: float = 30.0
    tokens: int = 150
    arrive_s: float = 120.0


@dataclass(slots=True)
class Stage:
    """One number of users, over some minutes."""

    users: int
    replicas: int = 0
    nodes: int = 0
    refused: int = 0
    firsts: list[tuple[float, float]] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)

    def settled_s(self) -> float:
        """Seconds from the stage's beginning to the last 10 s in which more than 5 % waited too long."""
        slow = [0.0]
        at, wait = (np.array(column) for column in zip(*self.firsts, strict=True))
        for window in range(int(at.max()) // 10 + 1):
            inside = wait[(at // 10) == window]
            if inside.size and np.quantile(inside, 0.95) > SOON_S:
                slow.append(10.0 * (window + 1))
        return slow[-1]

    def first_s(self, share: float, since: float = 0.0) -> float:
        return float(np.quantile([wait for at, wait in self.firsts if at >= since], share))


class Fleet:
    """Replicas and the nodes they are on. A replica that has to go takes nothing new and ends with its last stream."""

    def __init__(self, place: Place, least: int) -> None:
        self._place = place
        self._node_ready = [0.0] * place.nodes
        self.ready_at = np.zeros(least)
        self.leaving = np.zeros(least, dtype=bool)
        self.target = least

    @property
    def nodes(self) -> int:
        return len(self._node_ready)

    def open(self, now: float) -> np.ndarray:
        return np.flatnonzero((self.ready_at <= now) & ~self.leaving)

    def scale(self, target: int, now: float) -> None:
        living = np.flatnonzero(~self.leaving)
        self.leaving[living[target:]] = True
        new = [self._ready(number, now) for number in range(len(living), target)]
        self.ready_at = np.append(self.ready_at, new)
        self.leaving = np.append(self.leaving, np.zeros(len(new), dtype=bool))
        self.target = target

    def _ready(self, number: int, now: float) -> float:
        """When the replica that is the ``number``-th living one answers; a node is ordered where none has room."""
        node = number // self._place.replicas_per_node
        while node >= len(self._node_ready):
            self._node_ready.append(now + self._place.node_start_s)
        return max(now, self._node_ready[node]) + self._place.replica_start_s


class Autoscaler:
    """Ray's decision: requests that run or wait, averaged over the look-back, by the target of each replica."""

    def __init__(self, config: AutoscalingConfig) -> None:
        self._config = config
        self._seen: deque[tuple[float, int]] = deque()
        self._state: dict[str, Any] = {}

    def observe(self, now: float, n_requests: int) -> None:
        self._seen.append((now, n_requests))
        while self._seen[0][0] < now - self._config.look_back_period_s:
            self._seen.popleft()

    def decide(self, now: float, n_running: int, target: int) -> int:
        mean = sum(n for _, n in self._seen) / len(self._seen)
        wanted = _apply_scaling_factors(mean / self._config.get_target_ongoing_requests(), n_running, self._config)
        wanted, self._state = _apply_delay_logic(max(0, wanted), target, self._config, self._state, _now=now)
        return min(max(wanted, self._config.min_replicas), self._config.max_replicas)


class Simulation:
    """All users in arrays; a step is a quarter of a second."""

    def __init__(
        self, service: Service, limits: Limits, place: Place, behaviour: Behaviour, most_users: int, seed: int = 1
    ) -> None:
        self.service, self.limits, self.behaviour = service, limits, behaviour
        self.fleet = Fleet(place, limits.scaling.min_replicas)
        self.autoscaler = Autoscaler(limits.scaling)
        self.random = np.random.default_rng(seed)
        self.now = 0.0
        self._n_asked = 0
        self.replica = np.full(most_users, -1)
        self.order = np.zeros(most_users, dtype=int)
        self.due = np.full(most_users, np.inf)
        self.asked, self.began, self.warm, self.left = (np.full(most_users, np.nan) for _ in range(4))

    def run(self, users: int, seconds: float) -> Stage:
        stage, began = Stage(users), self.now
        new = np.flatnonzero(np.isinf(self.due[:users]) & (self.replica[:users] < 0))
        self.due[new] = self.now + self.random.uniform(0, self.behaviour.arrive_s, new.size)
        for step in range(int(seconds / STEP_S)):
            self._ask(stage)
            self._compute(stage, began)
            if step % 4 == 0:
                self._scale()
            self.now += STEP_S
        stage.replicas, stage.nodes = self.fleet.open(self.now).size, self.fleet.nodes
        return stage

    def _ask(self, stage: Stage) -> None:
        """Users whose time has come take the emptier of two replicas, or are told to come back."""
        load = np.bincount(self.replica[self.replica >= 0], minlength=self.fleet.ready_at.size)
        open_now = self.fleet.open(self.now)
        asking = np.flatnonzero((self.due <= self.now) & (self.replica < 0))
        asking = asking[asking < stage.users]
        pairs = self.random.choice(open_now, (asking.size, 2))
        for user, (one, other) in zip(asking, pairs, strict=True):
            if np.isnan(self.asked[user]):
                self.asked[user] = self.now
            chosen = one if load[one] <= load[other] else other
            if load[chosen] >= self.limits.slots + self.limits.queue:
                stage.refused += 1
                self.due[user] = self.now + RETRY_S
                continue
            load[chosen] += 1
            self._n_asked += 1
            self.replica[user], self.order[user], self.due[user] = chosen, self._n_asked, np.inf
            self.warm[user] = np.nan

    def _compute(self, stage: Stage, began: float) -> None:
        """The first ``slots`` of each replica, in order of arrival, get their share of its tokens."""
        users = np.flatnonzero(self.replica >= 0)
        users = users[np.lexsort((self.order[users], self.replica[users]))]
        _, first = np.unique(self.replica[users], return_index=True)
        rank = np.arange(users.size) - np.repeat(first, np.diff(np.append(first, users.size)))
        running = users[rank < self.limits.slots]
        n = np.bincount(self.replica[running], minlength=self.fleet.ready_at.size)[self.replica[running]]
        fresh = np.isnan(self.warm[running])
        self.warm[running[fresh]] = self.service.wait(n[fresh])
        self.left[running[fresh]] = self.behaviour.tokens
        warming = self.warm[running] > 0
        used = np.clip(self.warm[running], 0, STEP_S)
        self.warm[running] -= used
        talking = warming & (self.warm[running] <= 0)
        talk = running[talking]
        self.began[talk] = self.now + used[talking]
        stage.firsts += [(self.now - began, wait) for wait in self.began[talk] - self.asked[talk]]
        self.left[running] -= self.service.rate(n) * (STEP_S - used)
        self._finish(running[self.left[running] <= 0], stage)

    def _finish(self, done: np.ndarray, stage: Stage) -> None:
        stage.speeds += (self.behaviour.tokens / np.maximum(self.now - self.began[done], STEP_S)).tolist()
        self.replica[done], self.asked[done] = -1, np.nan
        self.due[done] = self.now + self.random.exponential(self.behaviour.think_s, done.size)

    def _scale(self) -> None:
        self.autoscaler.observe(self.now, int((self.replica >= 0).sum()))
        target = self.autoscaler.decide(self.now, self.fleet.open(self.now).size, self.fleet.target)
        if target != self.fleet.target:
            self.fleet.scale(target, self.now)


def measured(path: Path = RESULTS) -> Service:
    """Medians of the bench's pairs."""
    rows = json.loads(path.read_text())["streams"]
    columns = ("ours_tokens_per_s", "ours_first_s")
    speeds, waits = (tuple(float(np.median(row[name])) for row in rows) for name in columns)
    return Service(tuple(row["streams"] for row in rows), speeds, waits)


def limits_of(model: str, max_replicas: int) -> Limits:
    """The model as the graph deploys it, with another most of replicas."""
    settings = load()
    told = settings.catalogue.models[model].model_copy(update={"replicas": Replicas(min=1, max=max_replicas)})
    catalogue = settings.catalogue.model_copy(update={"models": {model: told}})
    graph = compose(GraphArgs(), settings.model_copy(update={"catalogue": catalogue}), hidden=())
    deployment = graph._bound_deployment.init_args[1][model]._bound_deployment
    return Limits(deployment._deployment_config.autoscaling_config, told.slots, told.queue)


def report(stages: list[Stage], seconds: float) -> Table:
    first = "first token s, last half: p50 / p95"
    table = Table("users", "replicas", "nodes", "settled after s", first, "p95, all", "tok/s a stream", "refused")
    for stage in stages:
        end = seconds / 2
        scale = [f"{stage.users:,}", str(stage.replicas), str(stage.nodes), f"{stage.settled_s():.0f}"]
        waits = [f"{stage.first_s(0.5, end):.2f} / {stage.first_s(0.95, end):.2f}", f"{stage.first_s(0.95):.1f}"]
        refused = stage.refused / (len(stage.firsts) + stage.refused)
        table.add_row(*scale, *waits, f"{np.median(stage.speeds):.1f}", f"{refused:.1%}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, nargs="+", default=list(RAMP))
    parser.add_argument("--minutes", type=float, default=10, help="of each number of users")
    parser.add_argument("--model", default="llama")
    parser.add_argument("--max-replicas", type=int, default=400)
    parser.add_argument("--think", type=float, default=Behaviour().think_s, help="seconds between two questions")
    parser.add_argument("--tokens", type=int, default=Behaviour().tokens, help="of an answer")
    parser.add_argument("--replicas-per-node", type=int, default=Place().replicas_per_node)
    parser.add_argument("--nodes", type=int, default=Place().nodes, help="that are there from the beginning")
    parser.add_argument("--node-start", type=float, default=Place().node_start_s, help="seconds a new node takes")
    parser.add_argument("--arrive", type=float, default=Behaviour().arrive_s, help="seconds within which users come")
    told = parser.parse_args()
    place = Place(told.replicas_per_node, told.nodes, told.node_start)
    seconds = 60 * told.minutes
    behaviour = Behaviour(told.think, told.tokens, told.arrive)
    simulation = Simulation(measured(), limits_of(told.model, told.max_replicas), place, behaviour, max(told.users))
    stages = [simulation.run(users, seconds) for users in told.users]
    console = Console(width=150)
    console.print(place, behaviour)
    console.print(report(stages, seconds))


if __name__ == "__main__":
    main()
