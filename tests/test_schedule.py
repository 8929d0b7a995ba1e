"""The schedule: torch's shapes, samples in place of steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psedge.protocol.shards import ScheduleSettings
from psedge.server.schedule import factor

STEPS = 40
BATCH = 16


def torch_factors(make: Callable[[torch.optim.Optimizer], Any], steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def ours(settings: ScheduleSettings, steps: int) -> list[float]:
    return [factor(settings, step * BATCH) for step in range(steps)]


def test_constant_is_one_everywhere() -> None:
    assert set(ours(ScheduleSettings(), STEPS)) == {1.0}


def test_step_equals_torch() -> None:
    settings = ScheduleSettings("step", milestones=(10 * BATCH, 25 * BATCH), gamma=0.2)
    expected = torch_factors(
        lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [10, 25], 0.2), STEPS
    )
    assert ours(settings, STEPS) == pytest.approx(expected)


def test_cosine_equals_torch() -> None:
    settings = ScheduleSettings("cosine", total=STEPS * BATCH, final_factor=0.1)
    expected = torch_factors(
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, 0.1), STEPS
    )
    assert ours(settings, STEPS) == pytest.approx(expected)


def test_one_cycle_equals_torch() -> None:
    # Torch puts the peak at step pct * total - 1 and the end at step total - 1.
    settings = ScheduleSettings(
        "one-cycle", total=(STEPS - 1) * BATCH, warmup=(STEPS // 4 - 1) * BATCH, final_factor=0.01
    )
    expected = torch_factors(
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 1.0, STEPS, pct_start=0.25, cycle_momentum=False, final_div_factor=4.0
        ),
        STEPS - 1,
    )
    assert ours(settings, STEPS - 1) == pytest.approx(expected)


def test_one_cycle_without_warm_up_rises_for_thirty_percent() -> None:
    settings = ScheduleSettings("one-cycle", total=1000)
    assert factor(settings, 0) == pytest.approx(1 / 25)
    assert factor(settings, 300) == 1.0
    assert factor(settings, 299) < 1.0 > factor(settings, 301)


def test_warm_up_is_linear_and_starts_above_zero() -> None:
    settings = ScheduleSettings("cosine", total=1000, warmup=100)
    assert factor(settings, 0) == pytest.approx(0.01)
    assert factor(settings, 49) == pytest.approx(0.5)
    assert factor(settings, 100) == 1.0
    assert factor(settings, 550) == pytest.approx(0.5)


def test_warm_up_and_milestones_multiply() -> None:
    settings = ScheduleSettings("step", warmup=100, milestones=(50,), gamma=0.1)
    assert factor(settings, 59) == pytest.approx(0.06)
    assert factor(settings, 100) == pytest.approx(0.1)


@given(
    st.sampled_from(["constant", "step", "cosine", "one-cycle"]),
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.floats(0, 1),
    st.integers(0, 30_000),
)
def test_any_schedule_stays_between_zero_and_one(
    kind: Any, total: int, warmup: int, final: float, samples: int
) -> None:
    settings = ScheduleSettings(kind, total, warmup, (total // 2,), 0.5, final)
    value = factor(settings, samples)
    assert math.isfinite(value)
    assert 0 <= value <= 1


@pytest.mark.parametrize("kind", ["cosine", "one-cycle"])
def test_the_last_value_stays(kind: Any) -> None:
    settings = ScheduleSettings(kind, total=100, final_factor=0.25)
    assert factor(settings, 100) == factor(settings, 10**9) == pytest.approx(0.25)
