"""Exchanges with real shards: retries, versions, the gate, joining again."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from tiny_cluster import HOME, run, until
from worker_bench import Bench, gradient

from psedge.protocol.errors import FrameError
from psedge.protocol.messages import EXCHANGE
from psedge.protocol.shards import SyncSettings
from psedge.protocol.wire import HEADER_BYTES, Status
from psedge.worker.client import Rejoin, ShardClient


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
