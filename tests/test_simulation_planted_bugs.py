"""Planted bugs are caught by random schedules, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import planted_bugs
import pytest
from planted_bugs import PLANTED, caught
from simulated_schedules import schedule

from psedge.simulation.run import simulate

#: The docs' table has the numbers for all of them; these are caught by nearly every schedule.
SEEDS = 40


@pytest.mark.parametrize(
    ("plant", "invariant"),
    [
        (planted_bugs.dedup_off, 1),
        (planted_bugs.gate_ignores_staleness, 4),
        (planted_bugs.codec_loses_mass, 5),
    ],
)
def test_a_planted_bug_is_caught(plant: Callable[[], Any], invariant: int) -> None:
    catch = caught(plant, seeds=SEEDS)
    assert invariant in catch.invariants, catch


def test_planting_leaves_nothing_behind() -> None:
    order, work = schedule(3)
    before = simulate(order, work=work).digest
    for plant in PLANTED.values():
        with plant():
            pass
    order, work = schedule(3)
    assert simulate(order, work=work).digest == before
