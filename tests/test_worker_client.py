"""Exchanges with real shards: retries, residuals, versions, the gate."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from tiny_cluster import HOME, TestClock, TinyCluster, run, until
from torch import nn

from psedge.protocol.errors import FrameError
from psedge.protocol.messages import EXCHANGE
from psedge.protocol.shards import GroupSettings, OptimizerSettings, SyncSettings
from psedge.protocol.wire import HEADER_BYTES, Status
from psedge.worker.binding import Binding, layout_of
from psedge.worker.client import Rejoin, ShardClient
from psedge.worker.control import SupervisorClient
from psedge.worker.session import Identity, Session

SGD = OptimizerSettings(rule="sgd", groups=(GroupSettings(lr=0.5),))
ASP = SyncSettings("asp")


class Bench:
    """A cluster around one small model, and workers of it."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        self.clock = TestClock()
        self.model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
        self.layout = layout_of(self.model)
        first = self.binding()
        first.read_model()
        self.start = first.parameters.copy()
        options = {"optimizer": SGD, "sync": ASP, **options}
        self.cluster = TinyCluster(self.layout, first.vectors, self.clock, **options)
        self.notes: list[str] = []

    def binding(self) -> Binding:
        return Binding(self.model, self.layout, torch.device("cpu"))

    async def session(self, name: str = "pi", incarnation: int = 100) -> Session:
        """A joined worker; all of them share one model, which these tests only write."""
        if not self.cluster.shards():
            await self.cluster.start()
        session = Session(
            self.cluster.network,
            self.clock,
            SupervisorClient(self.cluster.network, self.clock, HOME, self.notes.append),
            self.binding(),
            Identity(name, "test", incarnation, loader=False),
            self.notes.append,
        )
        await session.start(self.cluster.experiment())
        return session


def gradient(bench: Bench, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(len(bench.start)).astype(np.float32)


@pytest.mark.parametrize("servers", [1, 2, 5])
def test_a_step_is_sgd_on_the_servers_and_comes_back(servers: int) -> None:
    bench = Bench(servers=servers)

    async def work() -> None:
        session = await bench.session()
        np.testing.assert_array_equal(session.binding.parameters, bench.start)
        first = gradient(bench, 1)
        result = await session.client.exchange(first.copy(), 8)
        assert result.statuses == (Status.APPLIED,) * servers
        assert (result.clock, result.staleness, result.lag) == (1, 0, 0)
        np.testing.assert_array_equal(session.binding.parameters, bench.start)
        session.take()
        expected = bench.start - np.float32(0.5) * first
        np.testing.assert_allclose(session.binding.parameters, expected, rtol=1e-6)
        np.testing.assert_array_equal(session.binding.parameters, bench.cluster.parameters())
        await session.leave()

    run(work())


@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize("lost", ["lose_request", "lose_reply"])
def test_a_push_is_applied_once_whatever_is_lost(lost: str, servers: int) -> None:
    bench = Bench(servers=servers, codec="float16")

    async def work() -> None:
        session = await bench.session()
        getattr(bench.cluster.network, lost)[EXCHANGE] = 4
        push = gradient(bench, 1)
        result = await session.client.exchange(push.copy(), 8)
        assert set(result.statuses) <= {Status.APPLIED, Status.DUPLICATE}
        expected = bench.start - np.float32(0.5) * push.astype(np.float16).astype(np.float32)
        np.testing.assert_allclose(bench.cluster.parameters(), expected, rtol=1e-6)
        assert all(shard.version == 1 for shard in bench.cluster.shards())
        residual = session.client.residual
        assert residual is not None
        np.testing.assert_allclose(residual, push - push.astype(np.float16), atol=1e-7)
        await session.leave()

    run(work())


def test_an_outage_is_told_once_and_its_end_too() -> None:
    bench = Bench()

    async def work() -> None:
        session = await bench.session()
        bench.cluster.network.lose_request[EXCHANGE] = 5
        await session.client.exchange(gradient(bench, 1), 8)
        await session.leave()

    run(work())
    assert len(bench.notes) == 2
    assert "does not answer" in bench.notes[0]
    assert HOME.url in bench.notes[0]
    assert "answers again" in bench.notes[1]


def test_a_single_lost_request_is_nobodys_business() -> None:
    bench = Bench()

    async def work() -> None:
        session = await bench.session()
        bench.cluster.network.lose_request[EXCHANGE] = 1
        await session.client.exchange(gradient(bench, 1), 8)
        await session.leave()

    run(work())
    assert bench.notes == []


def test_nothing_is_lost_in_the_sum_with_a_lossy_codec() -> None:
    bench = Bench(codec="float16", servers=2)

    async def work() -> None:
        session = await bench.session()
        total = np.zeros_like(bench.start)
        for seed in range(20):
            push = gradient(bench, seed)
            total += push
            await session.client.exchange(push, 8)
            session.take()
        residual = session.client.residual
        applied = (bench.start - bench.cluster.parameters()) / np.float32(0.5)
        np.testing.assert_allclose(applied + residual, total, atol=2e-5)
        await session.leave()

    run(work())


def test_a_refused_push_leaves_the_residual_as_it_was() -> None:
    lagging = SyncSettings("asp", lag_bound=0, lag_action="refuse")
    bench = Bench(codec="float16", sync=lagging)

    async def work() -> None:
        slow, fast = await bench.session("slow"), await bench.session("fast", 200)
        await slow.client.exchange(gradient(bench, 1), 8)
        slow.take()
        await fast.client.pull()
        fast.take()
        await fast.client.exchange(gradient(bench, 2), 8)
        before, parameters = slow.client.residual, bench.cluster.parameters()
        assert before is not None
        before = before.copy()
        assert before.any()
        result = await slow.client.exchange(gradient(bench, 3), 8)
        assert result.statuses == (Status.REFUSED_LAG,)
        assert result.lag == 1
        np.testing.assert_array_equal(bench.cluster.parameters(), parameters)
        np.testing.assert_allclose(slow.client.residual, before, atol=1e-6)
        slow.take()
        np.testing.assert_allclose(slow.binding.parameters, parameters, rtol=1e-3)
        await slow.leave()
        await fast.leave()

    run(work())


@pytest.mark.parametrize("codec", ["identity", "float16"])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_one_bad_value_keeps_the_push_from_every_shard(poison: float, codec: str) -> None:
    bench = Bench(servers=3, codec=codec)

    async def work() -> None:
        session = await bench.session()
        bad = gradient(bench, 1)
        bad[0] = poison
        result = await session.client.exchange(bad, 8)
        assert result.statuses == (Status.REFUSED_NONFINITE,) * 3
        assert result.nonfinite
        np.testing.assert_array_equal(bench.cluster.parameters(), bench.start)
        good = await session.client.exchange(gradient(bench, 2), 8)
        assert good.statuses == (Status.APPLIED,) * 3
        if session.client.residual is not None:
            assert np.isfinite(session.client.residual).all()
        await session.leave()

    run(work())


def test_large_finite_gradients_are_not_taken_for_infinite() -> None:
    bench = Bench()

    async def work() -> None:
        session = await bench.session()
        push = session.client.encode(np.full_like(bench.start, 1e15), 1)
        assert np.isfinite(push.pieces[0].gradient).all()
        huge = session.client.encode(np.full_like(bench.start, 1e30), 1)
        assert np.isfinite(huge.pieces[0].gradient).all()
        await session.leave()

    run(work())


def test_a_gradient_counts_as_computed_on_what_was_taken_over_before_it() -> None:
    bench = Bench()

    async def work() -> None:
        session = await bench.session()
        client = session.client
        await client.send(client.encode(gradient(bench, 1), 8))
        second = client.encode(gradient(bench, 2), 8)
        session.take()
        result = await client.send(second)
        assert result.lag == 1
        session.take()
        third = await client.exchange(gradient(bench, 3), 8)
        assert third.lag == 0
        await session.leave()

    run(work())


def test_the_gate_holds_a_fast_worker_until_the_slow_one_steps() -> None:
    bench = Bench(sync=SyncSettings("ssp", staleness_bound=1))

    async def work() -> None:
        slow, fast = await bench.session("slow"), await bench.session("fast", 200)
        await fast.client.exchange(gradient(bench, 1), 8)
        held = asyncio.ensure_future(fast.client.exchange(gradient(bench, 2), 8))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not held.done()
        await slow.client.exchange(gradient(bench, 3), 8)
        result = await held
        assert (result.clock, result.staleness) == (2, 1)
        fast.take()
        np.testing.assert_array_equal(fast.binding.parameters, bench.cluster.parameters())
        await slow.leave()
        await fast.leave()

    run(work())


def test_a_poll_that_ends_before_the_gate_opens_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("psedge.server.service.GATE_POLL_SECONDS", 0.01)
    bench = Bench(sync=SyncSettings("bsp"), servers=2)

    async def work() -> None:
        one, two = await bench.session("one"), await bench.session("two", 200)
        held = asyncio.ensure_future(one.client.exchange(gradient(bench, 1), 8))
        calls = bench.cluster.network.calls
        await until(lambda: calls.count(EXCHANGE) >= 10)
        assert not held.done()
        await two.client.exchange(gradient(bench, 2), 24)
        assert (await held).statuses == (Status.APPLIED, Status.APPLIED)
        one.take()
        mean = 0.25 * gradient(bench, 1) + 0.75 * gradient(bench, 2)
        expected = bench.start - np.float32(0.5) * mean
        np.testing.assert_allclose(one.binding.parameters, expected, rtol=1e-5, atol=1e-6)
        await one.leave()
        await two.leave()

    run(work())


def test_buffers_and_counters_of_a_lone_worker_are_the_servers() -> None:
    bench = Bench(servers=2)

    async def work() -> None:
        session = await bench.session()
        bench.model(torch.randn(16, 5))
        norm = bench.model[1]
        mean = norm.running_mean.clone()
        await session.send(session.encode(16, gradient(bench, 1)))
        session.take()
        assert torch.equal(norm.running_mean, mean)
        assert int(norm.num_batches_tracked) == 1
        other = await bench.session("other", 200)
        np.testing.assert_array_equal(other.binding.buffers, session.binding.buffers)
        np.testing.assert_array_equal(other.binding.counters, session.binding.counters)
        await session.leave()
        await other.leave()

    run(work())


def test_bytes_of_frames_are_counted_with_their_headers() -> None:
    bench = Bench()

    async def work() -> None:
        session = await bench.session()
        pushed, pulled = session.client.bytes_pushed, session.client.bytes_pulled
        assert pushed == HEADER_BYTES
        await session.client.send(
            session.client.encode(
                gradient(bench, 1), 8, buffers_changed=False, counters_changed=False
            )
        )
        size = HEADER_BYTES + 4 * len(bench.start)
        assert session.client.bytes_pushed - pushed == size
        assert session.client.bytes_pulled - pulled == size
        await session.leave()

    run(work())


def test_a_worker_that_the_shards_forgot_has_to_join_again() -> None:
    bench = Bench(servers=2, codec="float16")

    async def work() -> None:
        session = await bench.session()
        await session.client.exchange(gradient(bench, 1), 8)
        session.take()
        owed = session.client.residual
        assert owed is not None
        owed = owed.copy()
        await bench.cluster.expel(session.joined.worker)
        with pytest.raises(Rejoin):
            await session.client.exchange(gradient(bench, 2), 8)
        np.testing.assert_allclose(session.client.residual, owed, atol=1e-6)
        await session.rejoin()
        assert session.client.residual is not None
        assert session.joined.name == "pi"
        result = await session.client.exchange(gradient(bench, 3), 8)
        assert result.statuses == (Status.APPLIED, Status.APPLIED)
        await session.leave()

    run(work())


def test_shards_that_do_not_cover_the_model_are_refused() -> None:
    bench = Bench(servers=2)

    async def work() -> None:
        session = await bench.session()
        import msgspec

        gap = msgspec.structs.replace(session.joined, shards=session.joined.shards[1:])
        with pytest.raises(FrameError):
            ShardClient(bench.cluster.network, bench.clock, gap, HOME, 1, session.binding, print)
        await session.leave()

    run(work())


def test_a_loop_of_ones_own_steps_and_survives_being_thrown_out() -> None:
    bench = Bench(servers=2)

    async def work() -> None:
        session = await bench.session()
        for thrown_out in (False, True, False):
            if thrown_out:
                await bench.cluster.expel(session.joined.worker)
            bench.model(torch.randn(16, 5)).square().sum().backward()
            result = await session.step(16)
            assert (result is None) == thrown_out
            assert all(parameter.grad is None for parameter in bench.model.parameters())
            np.testing.assert_array_equal(session.binding.parameters, bench.cluster.parameters())
        assert [shard.version for shard in bench.cluster.shards()] == [2, 2]
        await session.leave()

    run(work())
