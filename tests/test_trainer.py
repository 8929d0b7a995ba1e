"""A config-driven worker against real shards: each sample once, right gradients, clear ends."""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from tiny_cluster import run, until
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from trainer_world import CPU, SGD, Numbers, World

from psedge.protocol.errors import DataError, ModelError, RefusedError, TrainingError
from psedge.protocol.messages import CLAIM, EXCHANGE, JOIN
from psedge.protocol.ports import Incoming, Reply
from psedge.protocol.shards import GroupSettings, LocalOptimizer, OptimizerSettings, SyncSettings
from psedge.worker.binding import Binding, layout_of
from psedge.worker.client import ShardClient
from psedge.worker.config import ModelConfig, WorkerConfig
from psedge.worker.datasets.order import permuted
from psedge.worker.session import Session


@pytest.mark.parametrize("servers", [1, 3])
def test_one_worker_is_plain_sgd_over_every_sample_once_an_epoch(servers: int) -> None:
    world = World(Numbers(200), epochs=2, servers=servers)
    session = run(world.train())
    assert world.source.visits == Counter(dict.fromkeys(range(200), 2))
    expected = world.sgd(world.epoch_batches(16, epochs=2))
    np.testing.assert_allclose(world.cluster.parameters(), expected, rtol=1e-4, atol=1e-6)
    assert world.plan.finished
    assert session.metrics.samples == 400
    assert [leave.failure for leave in world.cluster.left] == [""]


def test_two_bsp_workers_equal_one_with_the_joint_batch() -> None:
    world = World(Numbers(128), sync=SyncSettings("bsp"), range_samples=16)

    async def work() -> None:
        first, second = await world.trainer("a"), await world.trainer("b")
        await asyncio.gather(first[1].run(), second[1].run())

    run(work())
    assert world.cluster.shards()[0].version == 4
    order = permuted(np.arange(128, dtype=np.int64), 128, 7, 0)
    expected = world.sgd([order[i : i + 32] for i in range(0, 128, 32)])
    np.testing.assert_allclose(world.cluster.parameters(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["bsp", "ssp", "asp"])
@pytest.mark.parametrize("overlap", [False, True])
def test_three_workers_visit_every_sample_once(mode: Any, overlap: bool) -> None:
    world = World(Numbers(333), epochs=2, sync=SyncSettings(mode, staleness_bound=1), servers=2)
    config = WorkerConfig(overlap=overlap)

    async def work() -> None:
        trainers = [await world.trainer(name, worker=config) for name in ("a", "b", "c")]
        await asyncio.gather(*(trainer.run() for _, trainer in trainers))

    run(work())
    assert world.source.visits == Counter(dict.fromkeys(range(333), 2))
    assert world.plan.finished
    assert world.plan.visited == 666
    if mode != "asp":
        bound = 1 if mode == "ssp" else 0
        assert all(shard.report().staleness_max <= bound for shard in world.cluster.shards())


def test_overlap_computes_on_parameters_that_are_one_exchange_old() -> None:
    world = World(Numbers(160))
    run(world.train(worker=WorkerConfig(overlap=True)))
    assert world.plan.finished
    report = world.cluster.shards()[0].report()
    assert report.lag_max == 1
    assert report.pushes_applied == 10
    assert not np.allclose(world.cluster.parameters(), world.start)


def test_accumulated_batches_are_one_large_batch() -> None:
    world = World(Numbers(128), range_samples=128)
    run(world.train(batch=10, worker=WorkerConfig(accumulate=13)))
    assert world.cluster.shards()[0].version == 1
    expected = world.sgd([np.arange(128, dtype=np.int64)])
    np.testing.assert_allclose(world.cluster.parameters(), expected, rtol=1e-4, atol=1e-6)


def test_clipping_limits_the_norm_of_the_push() -> None:
    plain = OptimizerSettings(rule="sgd", groups=(GroupSettings(lr=1.0),))
    world = World(Numbers(64), optimizer=plain, range_samples=64)
    run(world.train(batch=64, worker=WorkerConfig(clip_norm=0.01)))
    moved = np.linalg.norm(world.cluster.parameters() - world.start)
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_local_steps_push_the_change_that_torch_would_make() -> None:
    outer = OptimizerSettings(rule="sgd", groups=(GroupSettings(lr=1.0),))
    local = LocalOptimizer(SGD, groups=(0, 0, 0, 0))
    world = World(
        Numbers(160),
        optimizer=outer,
        sync=SyncSettings("asp", local_steps=4),
        local_optimizer=local,
        range_samples=64,
    )
    run(world.train())
    expected = world.sgd(world.epoch_batches(16))
    np.testing.assert_allclose(world.cluster.parameters(), expected, rtol=1e-4, atol=1e-5)
    assert world.cluster.shards()[0].version == 3
    assert world.plan.finished


@pytest.mark.parametrize("half", [False, True])
def test_local_steps_leave_the_chain_of_pulls_whole(half: bool) -> None:
    world = World(
        Numbers(160),
        epochs=8,
        optimizer=OptimizerSettings(rule="sgd", groups=(GroupSettings(lr=1.0),)),
        sync=SyncSettings("asp", local_steps=4),
        local_optimizer=LocalOptimizer(SGD, groups=(0, 0, 0, 0)),
        codec="q8",
    )
    if half:
        world.model.to(torch.bfloat16)
        world.source.inputs = world.source.inputs.bfloat16()
        world.cluster.layout = layout_of(world.model)
    session = run(world.train())
    # A digest travels with every 16th pull: a difference would have been told.
    assert session.metrics.steps >= 20
    assert world.notes == []
    assert world.plan.finished


@pytest.mark.parametrize("overlap", [False, True])
def test_a_worker_that_is_thrown_out_comes_back_and_no_sample_is_lost(overlap: bool) -> None:
    world = World(Numbers(300), servers=2)
    config = WorkerConfig(overlap=overlap)

    async def work() -> None:
        session, trainer = await world.trainer(worker=config)
        training = asyncio.ensure_future(trainer.run())
        await until(lambda: session.metrics.steps >= 5)
        await world.cluster.expel(session.joined.worker)
        await training

    run(work())
    assert world.plan.finished
    assert world.plan.visited == 300
    assert any("joined again" in note for note in world.notes)
    seen = sum(p.samples for p in world.cluster.shards()[0].report().workers)
    assert seen <= 300


def test_a_worker_that_is_forgotten_while_it_comes_in_joins_once_more() -> None:
    world = World(Numbers(100))
    routes = world.cluster.network.routes

    async def work() -> None:
        await world.cluster.start()
        url, join = next((url, table[JOIN]) for url, table in routes.items() if JOIN in table)
        joins = 0

        async def forgetful(incoming: Incoming) -> Reply:
            nonlocal joins
            reply = await join(incoming)
            joins += 1
            if joins == 1:
                await world.cluster.expel(world.cluster.membership.live()[0].worker)
            return reply

        routes[url][JOIN] = forgetful
        _, trainer = await world.trainer()
        await trainer.run()
        assert joins == 2

    run(work())
    assert world.plan.visited == 100


def test_a_worker_that_does_not_come_in_renews_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(Numbers(100))

    async def refused(client: ShardClient) -> None:
        raise RefusedError("internal", "no room")

    async def work() -> None:
        await world.cluster.start()
        before = asyncio.all_tasks()
        with pytest.raises(RefusedError):
            await world.trainer()
        assert asyncio.all_tasks() == before

    monkeypatch.setattr(ShardClient, "pull", refused)
    run(work())


@pytest.mark.parametrize("path", [CLAIM, EXCHANGE])
@pytest.mark.parametrize("lost", ["lose_request", "lose_reply"])
def test_lost_messages_cost_no_sample_of_the_epoch(path: str, lost: str) -> None:
    world = World(Numbers(300))

    async def work() -> None:
        session, trainer = await world.trainer()
        training = asyncio.ensure_future(trainer.run())
        await until(lambda: session.metrics.steps >= 3)
        getattr(world.cluster.network, lost)[path] = 2
        await training
        assert session.incarnation == session.identity.incarnation, "nobody had to join again"

    run(work())
    assert world.plan.finished
    assert world.plan.visited == 300
    assert world.source.visits == dict.fromkeys(range(300), 1)


def test_a_stop_lets_the_step_end_and_says_goodbye() -> None:
    world = World(Numbers(5000), epochs=100)

    async def work() -> Session:
        session, trainer = await world.trainer()
        training = asyncio.ensure_future(trainer.run())
        await until(lambda: session.metrics.steps >= 3)
        session.request_stop("Ctrl-C")
        await training
        return session

    session = run(work())
    assert session.stop_reason == "Ctrl-C"
    assert len(world.cluster.left) == 1
    assert world.cluster.membership.live() == ()
    assert world.cluster.shards()[0].report().samples_seen == session.metrics.samples


def test_the_supervisors_command_ends_training() -> None:
    world = World(Numbers(5000), epochs=100)

    async def work() -> Session:
        session, trainer = await world.trainer()
        training = asyncio.ensure_future(trainer.run())
        await until(lambda: session.metrics.steps >= 3)
        world.cluster.command = "stop"
        await training
        return session

    session = run(work())
    assert session.stopping
    assert session.metrics.samples < 5000
    assert len(world.cluster.left) == 1


def test_a_loss_that_is_nan_from_the_start_ends_with_its_causes() -> None:
    world = World(Numbers(400))

    def bad(output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(output, target) * float("nan")

    with pytest.raises(TrainingError, match=r"5 gradients in a row.*optimizer\.lr"):
        run(world.train(loss=bad))
    np.testing.assert_array_equal(world.cluster.parameters(), world.start)
    assert world.cluster.shards()[0].report().pushes_refused == 5
    assert "not finite" in world.cluster.left[0].failure


def test_more_classes_than_outputs_are_refused_before_the_first_step() -> None:
    world = World(Numbers(64, classes=5))
    with pytest.raises(DataError, match="5 classes, but the model has 3 outputs"):
        run(world.train())
    assert EXCHANGE in world.cluster.network.calls
    assert world.cluster.shards()[0].report().samples_seen == 0


def test_a_label_out_of_range_is_named_before_it_is_learned() -> None:
    source = Numbers(64)
    source.targets[40] = 9
    with pytest.raises(DataError, match=r"label 9.*3 outputs"):
        run(World(source).train(batch=64))


def test_data_that_the_model_cannot_take_are_named_with_their_shape() -> None:
    source = Numbers(64)
    source.inputs = source.inputs[:, :4]
    with pytest.raises(ModelError, match=r"mlp cannot be trained on numbers.*\[2, 4\]"):
        run(World(source).train())


def test_heartbeats_carry_loss_rate_and_bytes() -> None:
    world = World(Numbers(640))
    session = run(world.train(pace=3.0))
    last = world.cluster.heartbeats[-1]
    assert last.steps == session.metrics.steps == 40
    assert last.samples == 640
    assert last.bytes_pushed == session.client.bytes_pushed > 0
    losses = [beat.loss for beat in world.cluster.heartbeats if beat.loss is not None]
    assert losses
    assert all(0.1 < loss < 5 for loss in losses)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast_learns(precision: Any) -> None:
    world = World(Numbers(64), epochs=40)
    session = run(world.train(batch=32, model=ModelConfig("mlp", precision=precision)))
    losses = [beat.loss for beat in world.cluster.heartbeats if beat.loss is not None]
    assert world.cluster.shards()[0].report().pushes_refused == 0
    final = cross_entropy(_module(session, world)(world.source.inputs), world.source.targets)
    assert float(final.detach()) < 0.9
    assert losses[0] > float(final.detach())


def _module(session: Session, world: World) -> nn.Module:
    model = copy.deepcopy(world.model)
    binding = Binding(model, layout_of(model), CPU)
    binding.parameters[:] = world.cluster.parameters()
    binding.write_parameters()
    return model
