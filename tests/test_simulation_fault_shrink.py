"""Shrinking: a planted minimal set is found, within the tries, and made simple."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fault_cases import faults
from hypothesis import given, settings
from hypothesis import strategies as st

from psedge.simulation.faults.kinds import Crash, Fault, Freeze, Link, Reset, Slow
from psedge.simulation.faults.shrink import shrink, simpler_ones


def crashes(number: int) -> list[Fault]:
    return [Crash(on=f"pi-{index}", at=float(index)) for index in range(number)]


@settings(max_examples=100, deadline=None)
@given(number=st.integers(1, 40), data=st.data())
def test_a_planted_set_is_found_exactly(number: int, data: st.DataObject) -> None:
    schedule = crashes(number)
    planted = data.draw(st.sets(st.sampled_from(schedule), max_size=5))
    found = shrink(schedule, lambda some: planted <= set(some), tries=10_000)
    assert set(found) == planted
    assert list(found) == [fault for fault in schedule if fault in planted]


@settings(max_examples=60, deadline=None)
@given(schedule=st.lists(faults(), max_size=8, unique=True), data=st.data())
def test_no_fault_of_the_answer_can_be_left_out(schedule: list[Fault], data: st.DataObject) -> None:
    """Also where a bug needs any two of some kinds, or longer ones, and not a fixed set."""
    needed = data.draw(st.integers(0, 3))
    kinds = data.draw(st.sets(st.sampled_from(["crash", "slow", "link", "reset", "freeze"])))

    def still_fails(some: Sequence[Fault]) -> bool:
        return sum(fault.kind in kinds for fault in some) >= needed

    if not still_fails(schedule):
        return
    found = shrink(schedule, still_fails, tries=10_000)
    assert still_fails(found)
    assert len(found) == needed
    for number in range(len(found)):
        assert not still_fails(found[:number] + found[number + 1 :])


def test_one_fault_of_two_hundred_takes_few_runs() -> None:
    schedule, asked = crashes(200), 0

    def still_fails(some: Sequence[Fault]) -> bool:
        nonlocal asked
        asked += 1
        return schedule[137] in some

    assert shrink(schedule, still_fails, tries=1000) == (schedule[137],)
    assert asked < 40


@pytest.mark.parametrize("tries", [0, 1, 5, 17])
def test_no_more_runs_than_allowed_and_the_best_so_far(tries: int) -> None:
    schedule, asked = crashes(64), 0

    def still_fails(some: Sequence[Fault]) -> bool:
        nonlocal asked
        asked += 1
        return schedule[3] in some and schedule[60] in some

    found = shrink(schedule, still_fails, tries=tries)
    assert asked <= tries
    assert still_fails(found)
    assert (len(found) < len(schedule)) == (tries == 17)


def test_the_same_question_is_never_asked_twice() -> None:
    schedule, asked = crashes(24), set()

    def still_fails(some: Sequence[Fault]) -> bool:
        assert tuple(some) not in asked
        asked.add(tuple(some))
        return {schedule[2], schedule[9], schedule[20]} <= set(some)

    shrink(schedule, still_fails, tries=10_000)


def test_a_bug_without_any_fault_needs_none() -> None:
    assert shrink(crashes(9), lambda some: True, tries=10) == ()


def test_what_is_left_gets_simple() -> None:
    schedule = [
        Freeze(on=("pi-1", "pi-2", "pi-3"), at=12.3456, seconds=17.239),
        Reset(on="pi-1", at=3.0),
        Link(on="pi-1", at=20.077, loss=0.1, delay_seconds=0.3, jitter_seconds=0.01, seconds=0.7),
        Crash(on="pi-3", at=33.3333, restart_after=8.111),
    ]

    def still_fails(some: Sequence[Fault]) -> bool:
        long = any(
            isinstance(fault, Freeze) and "pi-2" in fault.where and (fault.seconds or 0) > 10
            for fault in some
        )
        late = any(
            isinstance(fault, Link) and fault.loss and (fault.at or 0) > 20 for fault in some
        )
        return long and late and any(fault.kind == "crash" for fault in some)

    freeze, link, crash = shrink(schedule, still_fails, tries=500)
    assert isinstance(freeze, Freeze)
    assert (freeze.on, freeze.at) == ("pi-2", 12.0)
    assert 10 < (freeze.seconds or 0) <= 12
    assert link == Link(on="pi-1", at=20.077, loss=0.1, seconds=0.7)
    assert crash == Crash(on="pi-3", at=33.0, restart_after=1.0)


@settings(max_examples=200, deadline=None)
@given(fault=faults())
def test_simpler_ones_differ_and_come_to_an_end(fault: Fault) -> None:
    steps = 0
    while (simpler := next(simpler_ones(fault), None)) is not None:
        assert simpler != fault
        assert (simpler.lasts or 0.0) <= (fault.lasts or 0.0)
        fault, steps = simpler, steps + 1
        assert steps < 200


def test_a_slow_down_for_good_stays_for_good() -> None:
    slow = Slow(on="pi-1", factor=3.0, at=5.0)
    assert shrink([slow], lambda some: slow in some, tries=50) == (slow,)
