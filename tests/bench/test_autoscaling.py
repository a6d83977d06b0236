"""The simulated autoscaler says what its parts say: measured speeds, Ray's decisions, the bounds of the graph."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ray.serve.config import AutoscalingConfig

from bench.autoscaling import Autoscaler, Behaviour, Fleet, Limits, Place, Service, Simulation, limits_of, measured

SERVICE = Service((1, 4, 16), (80, 120, 180), (0.1, 0.2, 0.5))
EAGER = Behaviour(think_s=0.1, tokens=80, arrive_s=1)
CALM = Behaviour(think_s=10, tokens=80, arrive_s=10)


def limits(most: int, queue: int = 256) -> Limits:
    scaling = AutoscalingConfig(
        min_replicas=1,
        max_replicas=most,
        target_ongoing_requests=16,
        metrics_interval_s=2,
        look_back_period_s=10,
        upscale_delay_s=5,
        downscale_delay_s=30,
    )
    return Limits(scaling, slots=16, queue=queue)


def simulation(most: int, users: int, behaviour: Behaviour = CALM, queue: int = 256) -> Simulation:
    place = Place(replicas_per_node=4, nodes=1, node_start_s=20, replica_start_s=5)
    return Simulation(SERVICE, limits(most, queue), place, behaviour, users)


def test_a_lone_user_is_served_at_the_measured_speed() -> None:
    stage = simulation(1, 1).run(1, 120)
    assert stage.first_s(0.5) == pytest.approx(0.1)
    assert np.median(stage.speeds) == pytest.approx(80, rel=0.25), "a step is a quarter of a second"


def test_a_full_replica_gives_what_it_was_measured_to_give_and_lets_the_others_wait() -> None:
    stage = simulation(1, 40, EAGER).run(40, 300)
    assert len(stage.speeds) * EAGER.tokens / 300 == pytest.approx(180, rel=0.1)
    assert np.median(stage.speeds) == pytest.approx(180 / 16, rel=0.1)
    assert stage.first_s(0.5, since=100) > 5


def test_the_queue_refuses_what_is_beyond_it() -> None:
    assert simulation(1, 40, EAGER, queue=4).run(40, 60).refused > 0
    assert simulation(1, 40, EAGER, queue=24).run(40, 60).refused == 0


def test_replicas_follow_the_users_up_and_down_and_the_wait_ends() -> None:
    running = simulation(20, 200)
    crowded = running.run(200, 300)
    assert 4 <= crowded.replicas < 20
    assert crowded.first_s(0.95, since=150) < 1
    assert 0 < crowded.settled_s() <= 150
    running.run(1, 60)
    assert running.run(1, 60).replicas == 1


def test_a_replica_without_a_node_waits_for_one_and_leaves_with_its_last_stream() -> None:
    fleet = Fleet(Place(replicas_per_node=2, nodes=1, node_start_s=20, replica_start_s=5), least=1)
    fleet.scale(4, now=100)
    assert fleet.ready_at.tolist() == [0, 105, 125, 125]
    assert fleet.nodes == 2
    fleet.scale(1, now=200)
    assert fleet.open(200).tolist() == [0]


def test_a_short_peak_does_not_scale_and_a_lasting_one_does_after_the_delay() -> None:
    autoscaler = Autoscaler(limits(8).scaling)
    decisions = []
    for second in range(40):
        autoscaler.observe(second, 64 if second == 3 or second >= 20 else 0)
        decisions.append(autoscaler.decide(second, n_running=1, target=1))
    assert set(decisions[:20]) == {1}
    assert decisions[-1] == 4
    assert decisions.index(max(decisions)) >= 25


def test_the_graphs_own_settings_and_the_benchs_own_figures_are_taken() -> None:
    told = limits_of("llama", 7)
    assert (told.scaling.max_replicas, told.scaling.get_target_ongoing_requests()) == (7, told.slots)
    service = measured()
    assert service.streams == (1, 4, 16)
    assert all(each > 0 for column in dataclasses.astuple(service) for each in column)
