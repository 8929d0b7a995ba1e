"""A worker that was asked to be slow."""

from __future__ import annotations

import pytest
from tiny_cluster import run
from trainer_world import Numbers, World

from psedge.worker.pace import HELD_UP, Pace


def test_each_step_takes_so_many_times_longer():
    pace = Pace(3.0)
    assert [pace.pause(seconds) for seconds in (0.1, 0.1, 0.2)] == pytest.approx([0.2, 0.2, 0.4])
    assert Pace(1.0).pause(0.1) == 0.0


def test_a_step_that_was_held_up_is_not_made_longer_still():
    pace = Pace(10.0)
    for _ in range(20):
        pace.pause(0.01)
    assert pace.pause(30.0) <= 9 * HELD_UP * 0.0101
    assert pace.pause(0.01) == pytest.approx(0.09)


@pytest.mark.parametrize("change", [0.01, 100.0])
def test_a_machine_that_has_changed_is_followed(change):
    pace = Pace(10.0)
    for _ in range(20):
        pace.pause(0.1)
    for _ in range(20):
        last = pace.pause(0.1 * change)
    assert last == pytest.approx(0.9 * change)


def seconds_of_a_run(longest_step: float) -> float:
    world = World(Numbers(320))
    clock = world.clock

    async def scenario() -> None:
        session, trainer = await world.trainer(pace=10.0)
        backward = trainer._backward

        def computed(batches):
            clock.seconds += longest_step if session.metrics.steps == 10 else 0.01
            backward(batches)

        trainer._backward = computed
        await trainer.run()
        assert session.metrics.steps == 20

    run(scenario())
    return clock.seconds


def test_a_paced_worker_that_is_stopped_for_a_while_goes_on_at_once():
    assert seconds_of_a_run(60.0) - seconds_of_a_run(0.01) < 62.0
