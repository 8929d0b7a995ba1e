"""Weighted means of gradients and buffers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from shard_cluster import payload, vector

from psedge.server.aggregation import KEPT_PAYLOADS, Mean, Round, merge_buffers
from psedge.server.push import Push


def push(
    worker: int,
    samples: int,
    buffers: NDArray[np.float32] | None = None,
    counters: bytes | None = None,
) -> Push:
    return Push(worker, 1, 1, 0, samples, None, buffers, counters)


def mean_of(taken: Mean) -> NDArray[np.float32]:
    """The gradient that a round came to."""
    total = np.zeros(taken.opened[0].piece.elements, np.float32)
    if taken.dense is not None:
        total += taken.dense
    for opened, weight in zip(taken.opened, taken.weights, strict=True):
        opened.decode_accumulate(weight, total)
    return total


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(-1000, 1000)), min_size=1, max_size=30))
def test_a_round_is_the_mean_over_all_samples(pushes: list[tuple[int, int]]) -> None:
    gathering = Round(3, clock=0)
    current = vector(7.0, 7.0, 7.0)
    for worker, (samples, value) in enumerate(pushes):
        gradient = vector(value, 2 * value, 1.0)
        gathering.add(push(worker, samples, gradient), payload(*gradient), current)
    total = sum(samples for samples, _ in pushes)
    mean = sum(samples * value for samples, value in pushes) / total
    taken = gathering.take()
    assert taken is not None
    assert taken.buffers is not None
    np.testing.assert_allclose(mean_of(taken), [mean, 2 * mean, 1.0], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(taken.buffers, [mean, 2 * mean, 1.0], rtol=1e-4, atol=1e-3)


def test_a_round_begins_anew_after_it_was_taken() -> None:
    gathering = Round(1, clock=0)
    assert gathering.take() is None
    gathering.add(push(3, 4, vector(1.0), b"\x01"), payload(8.0), vector(0.0))
    assert gathering.take() is not None
    assert gathering.take() is None
    gathering.add(push(0, 2), payload(6.0), vector(0.0))
    second = gathering.take()
    assert second is not None
    assert (mean_of(second).tolist(), second.buffers, second.counters) == ([6.0], None, None)


def test_many_payloads_become_one_sum_and_the_next_round_starts_from_nothing() -> None:
    gathering = Round(2, clock=0)
    for _ in range(2):
        kept = []
        for worker in range(3 * KEPT_PAYLOADS):
            gathering.add(push(worker, 1 + worker % 2), payload(worker, 1.0), vector())
            kept.append(gathering.kept)
        assert kept == 3 * list(range(1, KEPT_PAYLOADS + 1))
        taken = gathering.take()
        assert taken is not None
        assert taken.dense is not None
        samples = [1 + worker % 2 for worker in range(3 * KEPT_PAYLOADS)]
        mean = sum(worker * n for worker, n in enumerate(samples)) / sum(samples)
        np.testing.assert_allclose(mean_of(taken), [mean, 1.0], rtol=1e-6)
        assert gathering.kept == 0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_counters_are_those_of_the_highest_worker(order: tuple[int, ...]) -> None:
    gathering = Round(1, clock=0)
    for worker in order:
        gathering.add(push(worker, 1, counters=bytes([worker])), payload(0.0), vector())
    taken = gathering.take()
    assert taken is not None
    assert taken.counters == b"\x02"


def test_a_whole_share_replaces_bit_for_bit() -> None:
    merged, contribution = vector(1e30, 3.0, np.inf), vector(1e-30, 0.1, 2.0)
    merge_buffers(merged, contribution, 1.0)
    assert merged.tobytes() == contribution.tobytes()


def test_a_share_moves_that_far() -> None:
    merged = vector(1.0, -2.0)
    merge_buffers(merged, vector(3.0, 2.0), 0.25)
    np.testing.assert_allclose(merged, [1.5, -1.0])


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_what_is_not_finite_stays_out(share: float) -> None:
    mask = vector(-np.inf, np.nan, 1.0, 1.0, 4.0)
    merge_buffers(mask, vector(-np.inf, 5.0, np.nan, np.inf, 4.0), share)
    np.testing.assert_array_equal(mask, [-np.inf, 5.0, 1.0, 1.0, 4.0])
