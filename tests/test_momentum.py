"""Remedies for staleness: the adaptation of momentum, and delay compensation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.server.delay_compensation import compensate
from psedge.server.momentum import adapted


@pytest.mark.parametrize(
    ("momentum", "workers", "left"),
    [(0.9, 0, 0.9), (0.9, 1, 0.9), (0.9, 2, 0.8), (0.9, 8, 0.2), (0.9, 10, 0.0), (0.9, 99, 0.0),
     (0.99, 8, 0.92), (0.5, 2, 0.0), (0.0, 8, 0.0), (1.0, 8, 1.0)],
)  # fmt: skip
def test_what_is_left_of_momentum(momentum: float, workers: int, left: float) -> None:
    assert adapted(0.1, momentum, workers)[1] == pytest.approx(left, abs=1e-12)


@given(st.floats(0, 0.9999), st.integers(1, 1000), st.floats(1e-6, 10))
def test_the_long_run_step_stays(momentum: float, workers: int, rate: float) -> None:
    new_rate, left = adapted(rate, momentum, workers)
    assert 0 <= left <= momentum
    assert new_rate / (1 - left) == pytest.approx(rate / (1 - momentum))


def test_own_and_asynchronous_momentum_remember_as_long_as_was_asked_for() -> None:
    _, left = adapted(0.1, 0.9, 4)
    assert 4 / (1 - left) == pytest.approx(1 / (1 - 0.9))


def test_compensation_is_exact_where_the_curvature_is_the_squared_gradient() -> None:
    # d/dx of -1/x is its square, so to first order the gradient is right after a small move.
    gradient = np.full(3, -0.5, np.float32)
    compensate(gradient, np.full(3, 2.001, np.float32), np.full(3, 2.0, np.float32), 1.0)
    np.testing.assert_allclose(gradient, -1 / 2.001, rtol=1e-6)


def test_nothing_moved_nothing_compensated() -> None:
    gradient = np.array([1.0, -2.0, 3e17], np.float32)
    before, parameters = gradient.copy(), np.array([1.0, 2.0, 3.0], np.float32)
    compensate(gradient, parameters, parameters.copy(), 0.5)
    np.testing.assert_array_equal(gradient, before)


def test_a_wild_gradient_is_at_most_doubled() -> None:
    gradient = np.array([1e18, -1e18, 1e18, 1.0], np.float32)
    before = gradient.copy()
    parameters = np.array([1e20, 1e20, -1e20, 1e30], np.float32)
    compensate(gradient, parameters, -parameters, 1e6)
    np.testing.assert_array_equal(gradient, before * [2, 0, 0, 2])


def test_long_vectors_are_compensated_to_the_end() -> None:
    draw = np.random.default_rng(0)
    gradient, parameters, worker = draw.standard_normal((3, 70_001)).astype(np.float32)
    expected = gradient + 0.04 * gradient**2 * (parameters - worker)
    compensate(gradient, parameters, worker, 0.04)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
