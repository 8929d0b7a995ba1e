"""A link's rate from the transfers that cross it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.compression.link_meter import DELAY_SECONDS, TELLING_BYTES, LinkMeter

MEGABYTE = 2**20


def test_nothing_is_known_before_the_first_transfer() -> None:
    assert LinkMeter().seconds_per_byte is None


@given(rate=st.floats(1e4, 1e9), sizes=st.lists(st.integers(TELLING_BYTES, 10**8), min_size=1))
def test_a_steady_link_is_measured_exactly(rate: float, sizes: list[int]) -> None:
    meter = LinkMeter()
    for size in sizes:
        meter.add(size, size / rate + DELAY_SECONDS)
    assert meter.seconds_per_byte == pytest.approx(1 / rate, abs=1e-14)


def test_transfers_that_were_held_up_do_not_count() -> None:
    meter = LinkMeter()
    for index in range(30):
        meter.add(MEGABYTE, 5.0 if index % 3 == 0 else 1e-8 * MEGABYTE + DELAY_SECONDS)
    assert meter.seconds_per_byte == pytest.approx(1e-8)


def test_a_link_that_changed_is_noticed_within_some_transfers() -> None:
    meter = LinkMeter()
    for _ in range(100):
        meter.add(MEGABYTE, 1e-8 * MEGABYTE)
    for _ in range(8):
        meter.add(MEGABYTE, 1e-6 * MEGABYTE + DELAY_SECONDS)
    assert meter.seconds_per_byte == pytest.approx(1e-6)


def test_short_transfers_count_only_while_there_is_no_longer_one() -> None:
    meter = LinkMeter()
    meter.add(100, 1.0 + DELAY_SECONDS)
    assert meter.seconds_per_byte == pytest.approx(0.01)
    meter.add(MEGABYTE, 1e-6 * MEGABYTE + DELAY_SECONDS)
    meter.add(TELLING_BYTES - 1, 1.0)
    assert meter.seconds_per_byte == pytest.approx(1e-6)


def test_transfers_without_a_measurable_time_make_an_endless_rate() -> None:
    meter = LinkMeter()
    meter.add(MEGABYTE, 0.0)
    meter.add(MEGABYTE, DELAY_SECONDS / 2)
    assert meter.seconds_per_byte == 0.0
