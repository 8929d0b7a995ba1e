"""The order of an epoch is a permutation, the same everywhere, and looks random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.worker.datasets.order import permuted


@given(
    n=st.integers(1, 3000),
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 2**40),
)
def test_every_epoch_visits_every_sample_once(n: int, seed: int, epoch: int) -> None:
    order = permuted(np.arange(n), n, seed, epoch)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))


def test_golden_values_hold_on_every_machine() -> None:
    assert permuted(np.arange(10), 10, 7, 3).tolist() == [0, 6, 2, 7, 8, 4, 1, 3, 5, 9]
    places = np.array([0, 1, 2, 24_999, 49_999])
    assert permuted(places, 50_000, 0, 0).tolist() == [31799, 44814, 20755, 40219, 3993]
    assert permuted(places, 50_000, 123_456_789, 17).tolist() == [46829, 48856, 17912, 9475, 4221]


def test_a_range_is_a_part_of_the_whole() -> None:
    whole = permuted(np.arange(1437), 1437, 5, 2)
    assert np.array_equal(permuted(np.arange(100, 164), 1437, 5, 2), whole[100:164])


def test_epochs_and_seeds_differ() -> None:
    orders = [
        tuple(permuted(np.arange(200), 200, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4


def test_every_sample_comes_first_equally_often() -> None:
    first = np.array([permuted(np.array([0]), 16, 3, epoch)[0] for epoch in range(3200)])
    counts = np.bincount(first, minlength=16)
    chi_squared = float(((counts - 200) ** 2 / 200).sum())
    # 15 degrees of freedom: 37.7 is exceeded with a probability of one in a thousand.
    assert chi_squared < 37.7


def test_neighbours_are_not_related() -> None:
    order = permuted(np.arange(10_000), 10_000, 1, 1)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.04
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.04


def test_no_positions_give_no_samples() -> None:
    assert permuted(np.zeros(0, np.int64), 10, 0, 0).shape == (0,)


@pytest.mark.parametrize("position", [-1, 10])
def test_positions_outside_of_the_epoch_are_refused(position: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.9"):
        permuted(np.array([position]), 10, 0, 0)
