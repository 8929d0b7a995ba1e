"""A range of seeds on several processes: in order, whatever becomes of a process."""

from __future__ import annotations

import itertools
import multiprocessing
from typing import Any

import pytest
import simulated

from psedge.config import Experiment
from psedge.simulation.outcome import Order
from psedge.simulation.sweep import SeedReport, processes_for, sweep

ORDER = Order(Experiment(name="kitchen"), lanes=False)


def reports(prepare: Any, seeds: range, processes: int = 2) -> list[SeedReport]:
    return list(sweep(ORDER, seeds, processes, prepare))


def test_reports_come_in_the_order_of_seeds() -> None:
    found = reports(simulated.prepare, range(4, 10))
    assert [report.seed for report in found] == [4, 5, 6, 7, 8, 9]
    assert {report.phase for report in found} == {"finished"}
    assert found[0].figures["samples_applied"] == 120_000
    assert not multiprocessing.active_children()


def test_a_process_that_dies_costs_its_seed_only() -> None:
    found = reports(simulated.prepare_crash, range(6))
    assert [report.seed for report in found] == [0, 1, 2, 3, 4, 5]
    assert [report.seed for report in found if report.broken] == [2]
    assert found[2].crash == "its process ended with exit code 3"


def test_a_mistake_in_the_simulator_is_told_with_its_traceback() -> None:
    found = reports(simulated.prepare_failure, range(3))
    assert [report.phase for report in found] == ["finished", "crashed", "finished"]
    assert found[1].crash.strip().endswith("ZeroDivisionError: in the simulator")


def test_whoever_stops_asking_ends_the_processes() -> None:
    asked = sweep(ORDER, range(1000), 2, simulated.prepare)
    first = list(itertools.islice(asked, 3))
    asked.close()  # type: ignore[attr-defined]
    assert [report.seed for report in first] == [0, 1, 2]
    assert not multiprocessing.active_children()


def test_a_users_mistake_is_no_crash() -> None:
    found = reports(simulated.prepare_refusal, range(2))
    assert found[0].mistake.startswith("100 workers")
    assert not found[0].broken


@pytest.mark.parametrize(("seeds", "available", "most"), [(1, None, 1), (50, 25, 2), (50, 1, 1)])
def test_processes_are_as_many_as_fit(seeds: int, available: int | None, most: int) -> None:
    assert 1 <= processes_for(seeds, 10, available) <= most
