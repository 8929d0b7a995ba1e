"""Ranges become steps, and steps become gradients."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from tiny_cluster import TestClock, run
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from trainer_world import Numbers

from psedge.protocol.errors import DataError
from psedge.protocol.messages import ClaimReply
from psedge.worker.endings import Rejoin
from psedge.worker.feed import Batch, BatchFeed, FeedSettings, plan_steps
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


class Claims:
    """A supervisor that answers with what it was given, and then that all is handed out."""

    def __init__(self, *replies: ClaimReply | asyncio.Future[ClaimReply]) -> None:
        self.replies = deque(replies)
        #: Whether each claim came from an idle worker.
        self.asked: list[bool] = []

    async def claim(self, *, idle: bool) -> ClaimReply:
        self.asked.append(idle)
        await asyncio.sleep(0)
        reply = self.replies.popleft() if self.replies else ClaimReply("done")
        return reply if isinstance(reply, ClaimReply) else await reply


def fed(claims: Claims) -> BatchFeed:
    """Steps of ten samples."""

    async def at_once(function: Any) -> Any:
        await asyncio.sleep(0)
        return function()

    return BatchFeed(
        claims, Numbers(1000), FeedSettings(5, 2, seed=3), TestClock(), at_once, lambda _: None
    )


def ranges(*starts: int, reserve: int) -> list[ClaimReply]:
    return [ClaimReply("range", 0, start, start + 40, reserve) for start in starts]


async def steps(feed: BatchFeed, count: int) -> None:
    for _ in range(count):
        assert await feed.next() is not None
        for _ in range(100):
            await asyncio.sleep(0)


def test_ranges_are_claimed_until_there_is_a_reserve() -> None:
    async def story() -> None:
        claims = Claims(*ranges(0, 40, 80, 120, 160, 200, reserve=100))
        feed = fed(claims)
        assert await feed.refill()
        await steps(feed, 1)
        # 15 steps are left, and ten are asked for.
        assert claims.asked == [True, False, False, False]
        await steps(feed, 4)
        assert len(claims.asked) == 4
        await steps(feed, 1)
        assert len(claims.asked) == 5

    run(story())


def test_who_is_to_wait_for_its_turn_asks_again_with_its_next_step() -> None:
    async def story() -> None:
        first, second, third = ranges(0, 40, 80, reserve=60)
        later = ClaimReply("wait", reserve=60)
        claims = Claims(first, later, later, second, later, ClaimReply("wait"), third)
        feed = fed(claims)
        assert await feed.refill()
        await steps(feed, 3)
        assert claims.asked == [True, False, False, False, False]
        await steps(feed, 1)
        assert len(claims.asked) == 6
        # Nothing is free: it uses up what it has.
        await steps(feed, 4)
        assert await feed.next() is None
        assert len(claims.asked) == 6
        assert await feed.refill()
        assert claims.asked[6]

    run(story())


def test_a_step_waits_for_one_range_and_not_for_all() -> None:
    async def story() -> None:
        second, third = ranges(40, 80, reserve=1000)
        held_up = [asyncio.get_running_loop().create_future() for _ in range(2)]
        feed = fed(Claims(*ranges(0, reserve=1000), *held_up))
        assert await feed.refill()
        await steps(feed, 4)
        fifth = asyncio.ensure_future(feed.next())
        await asyncio.sleep(0)
        assert not fifth.done()
        held_up[0].set_result(second)
        assert await fifth is not None
        held_up[1].set_result(third)
        await steps(feed, 7)
        assert await feed.next() is None

    run(story())


def test_a_claim_ahead_may_say_that_the_worker_is_not_known() -> None:
    async def story() -> None:
        feed = fed(Claims(*ranges(0, reserve=100), ClaimReply("rejoin")))
        assert await feed.refill()
        with pytest.raises(Rejoin):
            await steps(feed, 2)
        await feed.reset()
        assert await feed.next() is None

    run(story())


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
