"""Ranges become steps, and steps become gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from psedge.protocol.errors import DataError
from psedge.protocol.messages import ClaimReply
from psedge.worker.feed import Batch, FeedSettings, plan_steps
from psedge.worker.gradient import FIRST_SCALE, GradientStep

CPU = torch.device("cpu")


def sizes(start: int, stop: int, batch: int, accumulate: int = 1) -> list[list[int]]:
    claimed = ClaimReply("range", epoch=0, start=start, stop=stop)
    settings = FeedSettings(batch, accumulate, seed=3)
    return [[len(b) for b in plan.batches] for plan in plan_steps(claimed, 100, settings)]


def test_a_range_is_cut_into_batches() -> None:
    assert sizes(0, 40, 16) == [[16], [16], [8]]
    assert sizes(0, 40, 16, accumulate=2) == [[16, 16], [8]]
    assert sizes(0, 5, 16) == [[5]]


def test_no_batch_of_one_is_left_over_where_it_can_join_another() -> None:
    assert sizes(0, 33, 16) == [[16], [17]]
    assert sizes(99, 100, 16) == [[1]]
    assert sizes(0, 3, 1) == [[1], [2]]


def test_an_epochs_ranges_visit_each_sample_once_however_they_are_cut() -> None:
    settings = FeedSettings(7, 2, seed=3)
    seen: list[int] = []
    for start, stop in [(0, 33), (33, 34), (34, 90), (90, 100)]:
        claimed = ClaimReply("range", epoch=4, start=start, stop=stop)
        for plan in plan_steps(claimed, 100, settings):
            seen += np.concatenate(plan.batches).tolist()
    assert sorted(seen) == list(range(100))


def test_augmentation_differs_by_step_and_epoch_and_is_the_same_again() -> None:
    def seeds(epoch: int) -> list[int]:
        claimed = ClaimReply("range", epoch=epoch, start=0, stop=64)
        return [plan.seed for plan in plan_steps(claimed, 100, FeedSettings(16, 1, seed=3))]

    assert len({*seeds(0), *seeds(1)}) == 8
    assert seeds(0) == seeds(0)


def batch(samples: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 4, generator=generator)
    return Batch(inputs, torch.arange(samples) % 3, samples)


def test_unequal_batches_are_averaged_by_their_samples() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    step = GradientStep(model, cross_entropy, CPU)
    parts = [batch(5, 1), batch(2, 2)]
    loss = step(parts)
    gradient = model.weight.grad
    model.zero_grad()
    inputs = torch.cat([part.inputs for part in parts])
    joint = cross_entropy(model(inputs), torch.cat([part.targets for part in parts]))
    joint.backward()
    assert loss == pytest.approx(float(joint.detach()), rel=1e-6)
    assert gradient is not None
    torch.testing.assert_close(gradient, model.weight.grad)


def test_a_batch_of_one_sample_uses_running_statistics() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    loss = GradientStep(model, cross_entropy, CPU)([batch(1)])
    assert np.isfinite(loss)
    assert model[1].training
    assert model[0].weight.grad is not None


def test_float16_gradients_survive_an_overflow_at_a_lower_scale() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    plain = copy.deepcopy(model)
    step = GradientStep(model, cross_entropy, CPU, precision="float16")
    step._scale = FIRST_SCALE * 2.0**20
    large = Batch(batch(6).inputs, batch(6).targets, 6)
    step([large])
    GradientStep(plain, cross_entropy, CPU)([large])
    assert step._scale < FIRST_SCALE * 2.0**20
    torch.testing.assert_close(model.weight.grad, plain.weight.grad, rtol=2e-2, atol=2e-3)


def test_a_loss_that_is_not_finite_is_not_tried_again() -> None:
    calls = 0

    def bad(output: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return output.sum() * float("inf")

    loss = GradientStep(nn.Linear(4, 3), bad, CPU, precision="float16")([batch(6)])
    assert not np.isfinite(loss)
    assert calls == 1


def test_an_index_that_an_embedding_does_not_have_is_the_datas_fault() -> None:
    model = nn.Sequential(nn.Embedding(3, 4), nn.Flatten(), nn.Linear(4, 3))
    bad = Batch(torch.tensor([[1], [7]]), torch.tensor([0, 1]), 2)
    with pytest.raises(DataError, match="out of range"):
        GradientStep(model, cross_entropy, CPU)([bad])


def test_clipping_takes_sparse_gradients_too() -> None:
    model = nn.Sequential(nn.Embedding(9, 3, sparse=True), nn.Flatten())
    target = torch.tensor([0, 1])
    step = GradientStep(model, cross_entropy, CPU, clip_norm=0.001)
    step([Batch(torch.tensor([[1], [7]]), target, 2)])
    assert float(model[0].weight.grad.norm()) == pytest.approx(0.001, rel=1e-2)
