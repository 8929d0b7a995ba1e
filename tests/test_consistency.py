"""The gate: examples, and the law under random schedules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.protocol.shards import Member, SyncSettings
from psedge.server.consistency import Gate, weight_of


def gate(mode: Any = "ssp", bound: int = 2, workers: int = 2) -> Gate:
    made = Gate(SyncSettings(mode, staleness_bound=bound))
    made.set_members(Member(worker, 1) for worker in range(workers))
    return made


def test_bsp_is_lockstep() -> None:
    lockstep = gate("bsp", bound=5)
    lockstep.advance(0)
    assert not lockstep.may_proceed(0)
    assert lockstep.may_proceed(1)
    lockstep.advance(1)
    assert lockstep.may_proceed(0)


def test_ssp_lets_a_worker_run_ahead_by_the_bound() -> None:
    ssp = gate(bound=2)
    for clock in (1, 2):
        assert ssp.advance(0) == clock
        assert ssp.may_proceed(0)
    ssp.advance(0)
    assert ssp.staleness(0) == 3
    assert not ssp.may_proceed(0)
    ssp.advance(1)
    assert ssp.may_proceed(0)
    assert ssp.slowest() == 1


def test_asp_never_holds_anyone() -> None:
    asp = gate("asp", bound=0)
    for _ in range(50):
        asp.advance(0)
    assert asp.may_proceed(0)
    assert asp.staleness(0) == 50


def test_a_newcomer_starts_at_the_slowest() -> None:
    ssp = gate()
    for worker in (0, 0, 1):
        ssp.advance(worker)
    ssp.set_members([Member(0, 1), Member(1, 1), Member(2, 1)])
    assert ssp.clock(2) == 1


def test_a_newcomer_to_an_empty_room_starts_where_the_fastest_was() -> None:
    ssp = gate()
    for worker in (0, 0, 1):
        ssp.advance(worker)
    ssp.set_members([])
    assert ssp.slowest() is None
    ssp.set_members([Member(7, 1)])
    assert ssp.clock(7) == 2


def test_an_idle_worker_holds_nobody_and_wakes_at_the_slowest() -> None:
    ssp = gate(bound=0)
    ssp.advance(0)
    assert not ssp.may_proceed(0)
    ssp.set_members([Member(0, 1), Member(1, 1, idle=True)])
    assert ssp.may_proceed(0)
    ssp.advance(0)
    ssp.set_members([Member(0, 1), Member(1, 1)])
    assert ssp.clock(1) == 2
    assert ssp.may_proceed(0)


def test_a_push_of_an_idle_worker_counts_from_the_slowest() -> None:
    ssp = gate(bound=0)
    ssp.set_members([Member(0, 1), Member(1, 1, idle=True)])
    for _ in range(5):
        ssp.advance(0)
    assert ssp.staleness(1) == 0
    assert ssp.advance(1) == 6
    ssp.set_members([Member(0, 1), Member(1, 1)])
    assert ssp.clock(1) == 6
    assert not ssp.may_proceed(1)


def test_a_new_incarnation_is_a_newcomer() -> None:
    ssp = gate()
    for worker in (0, 1, 1, 0, 0):
        ssp.advance(worker)
    ssp.set_members([Member(0, 2), Member(1, 1)])
    assert (ssp.clock(0), ssp.clock(1)) == (2, 2)


def test_one_who_is_no_member_has_no_clock() -> None:
    with pytest.raises(KeyError):
        gate().may_proceed(9)


@pytest.mark.parametrize(
    ("settings", "lag", "weight"),
    [
        (SyncSettings("asp"), 1000, 1.0),
        (SyncSettings("asp", lag_bound=3), 3, 1.0),
        (SyncSettings("asp", lag_bound=3), 7, 0.5),
        (SyncSettings("ssp", lag_bound=0), 1, 0.5),
        (SyncSettings("ssp", lag_bound=3, lag_action="refuse"), 3, 1.0),
        (SyncSettings("ssp", lag_bound=3, lag_action="refuse"), 4, 0.0),
        (SyncSettings("bsp", lag_bound=0, lag_action="refuse"), 4, 1.0),
    ],
)
def test_weight_of_an_old_push(settings: SyncSettings, lag: int, weight: float) -> None:
    assert weight_of(settings, lag) == weight


#: A schedule is a list of moves: (what, which worker).
MOVES = st.lists(
    st.tuples(
        st.sampled_from(
            ["push", "push", "push", "push", "join", "leave", "rejoin", "idle", "wake"]
        ),
        st.integers(0, 4),
    ),
    max_size=120,
)


@given(MOVES, st.integers(0, 3))
def test_the_gap_never_exceeds_the_bound_and_someone_can_always_go_on(
    moves: list[tuple[str, int]], bound: int
) -> None:
    ssp = Gate(SyncSettings("ssp", staleness_bound=bound))
    members: dict[int, Member] = {}
    floor = 0
    for incarnation, (move, worker) in enumerate(moves):
        member = members.get(worker)
        if move == "push" and member:
            # An idle one may push before the news that it woke has come here.
            if ssp.may_proceed(worker):
                assert ssp.staleness(worker) <= bound
                ssp.advance(worker)
        elif move == "leave":
            members.pop(worker, None)
        elif move in ("join", "rejoin") and (member is None or move == "rejoin"):
            members[worker] = Member(worker, incarnation)
        elif member and move in ("idle", "wake"):
            members[worker] = Member(worker, member.incarnation, idle=move == "idle")
        if move != "push":
            ssp.set_members(members.values())
        ssp.check_invariants()
        assert ssp.floor >= floor, "the floor fell"
        floor = ssp.floor
        active = [member.worker for member in members.values() if not member.idle]
        assert not active or any(ssp.may_proceed(other) for other in active)
