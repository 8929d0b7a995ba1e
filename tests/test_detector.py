"""The failure detector finds the dead within their lease and leaves the slow alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.supervisor.detector import (
    DEAD_PHI,
    LONGEST_LEASE_SECONDS,
    PHI_LIMIT,
    SHORTEST_LEASE_SECONDS,
    SUSPECT_PHI,
    PhiAccrual,
    longest_lease,
)


def heard(intervals: list[float], *, beat: float = 1.0) -> tuple[PhiAccrual, float]:
    """A detector after these intervals, and the time of the last sign of life."""
    detector, now = PhiAccrual(0.0, beat, None), 0.0
    for interval in intervals:
        now += interval
        detector.heard(now)
    return detector, now


@given(st.lists(st.floats(0.5, 6.0), max_size=400))
def test_a_loaded_machine_is_never_dead(intervals: list[float]) -> None:
    """Whatever the order: also 300 even heartbeats and then, all of a sudden, six seconds."""
    detector, now = PhiAccrual(0.0, 1.0, None), 0.0
    for interval in intervals:
        now += interval
        assert not detector.dead(now)
        detector.heard(now)


@given(st.lists(st.floats(0.0, 100.0), max_size=300), st.floats(0.05, 40.0))
def test_who_stops_is_dead_within_its_lease(intervals: list[float], beat: float) -> None:
    detector, now = heard(intervals, beat=beat)
    lease = detector.lease_seconds()
    assert SHORTEST_LEASE_SECONDS <= lease <= longest_lease(beat, None)
    assert not detector.dead(now + 0.999 * lease)
    assert detector.dead(now + 1.001 * lease)


@given(st.lists(st.floats(0.0, 100.0), max_size=300), st.floats(0.0, 200.0), st.floats(0.0, 50.0))
def test_suspicion_grows_with_silence(intervals: list[float], silence: float, more: float) -> None:
    detector, now = heard(intervals)
    assert 0 <= detector.phi(now + silence) <= detector.phi(now + silence + more) <= PHI_LIMIT


def test_the_lease_is_the_silence_at_which_phi_says_dead() -> None:
    chance = random.Random(1)
    detector, now = heard([chance.gauss(4.0, 1.5) for _ in range(300)])
    assert detector.phi(now + detector.lease_seconds()) == pytest.approx(DEAD_PHI, rel=1e-3)


def test_an_even_node_is_given_less_time_than_an_uneven_one() -> None:
    even, _ = heard([1.0] * 100)
    uneven, _ = heard([0.5, 6.0] * 50)
    new, _ = heard([])
    assert even.lease_seconds() < 8
    assert 15 < uneven.lease_seconds() < 30
    assert even.lease_seconds() < new.lease_seconds() < 12


def test_people_see_a_suspicion_before_it_kills() -> None:
    detector, now = heard([1.0] * 100)
    assert not detector.suspect(now + 3.0)
    assert detector.suspect(now + 5.0)
    assert not detector.dead(now + 5.0)
    assert detector.phi(now + 5.0) > SUSPECT_PHI


def test_only_the_latest_intervals_count() -> None:
    detector, _ = heard([30.0] * 100 + [1.0] * 100)
    assert detector.lease_seconds() == heard([1.0] * 100)[0].lease_seconds()


def test_one_long_absence_does_not_outweigh_everything() -> None:
    detector, _ = heard([1.0] * 50 + [10_000.0] + [1.0] * 49)
    assert detector.lease_seconds() <= LONGEST_LEASE_SECONDS


def test_a_fixed_lease_is_kept() -> None:
    detector = PhiAccrual(0.0, 1.0, 3.0)
    for now in range(1, 100):
        detector.heard(now * 20.0)
    assert detector.lease_seconds() == 3.0
    assert not detector.dead(99 * 20.0 + 3.0)
    assert detector.dead(99 * 20.0 + 3.1)


def test_time_that_goes_backwards_is_no_sign_of_life() -> None:
    detector, now = heard([1.0] * 10)
    lease = detector.lease_seconds()
    detector.heard(now - 100.0)
    detector.heard(now)
    assert detector.lease_seconds() == lease
    assert detector.silence(now - 5) == 0


def test_what_the_listener_missed_is_forgiven() -> None:
    detector, now = heard([1.0] * 100)
    detector.forgive(3600.0, now + 3600.5)
    assert detector.silence(now + 3600.5) == pytest.approx(0.5)
    detector.forgive(100.0, now + 3601.0)
    assert detector.silence(now + 3602.0) == pytest.approx(1.0), "nobody is heard in the future"
