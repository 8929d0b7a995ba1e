"""Planted bugs are caught by random schedules, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import planted_bugs
import planted_replica_bugs
import pytest
from planted_bugs import PLANTED, caught
from simulated_schedules import schedule

from psedge.simulation.faults.hosts import Hosts
from psedge.simulation.faults.plan import load_plan
from psedge.simulation.outcome import Order
from psedge.simulation.run import simulate
from psedge.simulation.work import ProblemWork
from psedge.toml_config import load_config

#: The docs' table has the numbers for all of them; these are caught by nearly every schedule.
SEEDS = 40


@pytest.mark.parametrize(
    ("plant", "invariant"),
    [
        (planted_bugs.dedup_off, 1),
        (planted_bugs.gate_ignores_staleness, 4),
        (planted_bugs.codec_loses_mass, 5),
        (planted_replica_bugs.acknowledged_before_replicated, 1),
        (planted_replica_bugs.damaged_entries_are_skipped, 3),
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


PARTED_WHILE_A_CHECKPOINT_IS_GATHERED = """
[[fault]]
kind = "partition"
between = ["server-0", "server-1"]
after = "snapshot 2"
seconds = 4.0

[[fault]]
kind = "crash"
on = "server-0"
after = "checkpoint 2"
restart_after = 2.0
"""


@pytest.mark.parametrize("planted", [False, True])
def test_a_checkpoint_has_the_plan_of_its_parameters(planted: bool, tmp_path: Path) -> None:
    """While one server's part is on its way, the workers of the others go on."""
    experiment = load_config(
        {
            "model": {"factory": "mlp"},
            "data": {"dataset": "npz", "path": "problem.npz", "batch_size": 8},
            "schedule": {"length": 6},
            "checkpoint": {"every_seconds": 3},
            "replication": {"replicas": 1},
            "cluster": {
                "servers": 2,
                "range_batches": 2,
                "lease_seconds": 15,
                "devices": [{"profile": "raspberry-pi-4b", "count": 3}],
            },
        }
    )
    path = tmp_path / "plan.toml"
    path.write_text(PARTED_WHILE_A_CHECKPOINT_IS_GATHERED)
    hosts = Hosts(tuple(f"raspberry-pi-4b-{n}" for n in (1, 2, 3)), ("server-0", "server-1"))
    order = Order(experiment, plan=load_plan(path, hosts), limit_seconds=600.0)
    with planted_bugs.plan_is_ahead_of_its_parameters() if planted else nullcontext():
        outcome = simulate(order, work=ProblemWork(experiment, samples=256))
    assert outcome.phase == "finished"
    assert {one.invariant for one in outcome.violations} == ({6} if planted else set())


LAST_PUSHES = 4 * 256 // 8
PARTED_BEFORE_THE_LAST_PUSH = f"""
[[fault]]
kind = "partition"
between = ["raspberry-pi-4b-1", "server-1"]
after = "push {LAST_PUSHES - 1}"
delay = 0.1
seconds = 4.0
"""


@pytest.mark.parametrize("planted", [False, True])
def test_the_last_checkpoint_has_the_last_push_to_every_shard(
    planted: bool, tmp_path: Path
) -> None:
    """The first shard has it, and the other one only when the network is back."""
    experiment = load_config(
        {
            "model": {"factory": "mlp"},
            "data": {"dataset": "npz", "path": "problem.npz", "batch_size": 8},
            "schedule": {"length": 4},
            "cluster": {"servers": 2, "devices": [{"profile": "raspberry-pi-4b"}]},
        }
    )
    path = tmp_path / "plan.toml"
    path.write_text(PARTED_BEFORE_THE_LAST_PUSH)
    hosts = Hosts(("raspberry-pi-4b-1",), ("server-0", "server-1"))
    order = Order(experiment, plan=load_plan(path, hosts), limit_seconds=600.0)
    with planted_bugs.final_checkpoint_comes_too_early() if planted else nullcontext():
        outcome = simulate(order, work=ProblemWork(experiment, samples=256))
    assert outcome.phase == "finished"
    assert {one.invariant for one in outcome.violations} == ({1} if planted else set())
