"""What becomes of a push and of the residual: lost, refused, given up, or not a number at all."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_cluster import run
from worker_bench import Bench, gradient

from psedge.compression.choice import Choice
from psedge.compression.table import PUSH_CODECS
from psedge.protocol.coding import CodingSettings
from psedge.protocol.messages import EXCHANGE
from psedge.protocol.shards import SyncSettings
from psedge.protocol.wire import Flag, Status
from psedge.worker.client import Rejoin
from psedge.worker.session import Session

LAGGING = SyncSettings("asp", lag_bound=0, lag_action="refuse")
#: Three rows of it are more than one bucket, and no whole number of buckets.
WIDTH = 200
CORRECTED = CodingSettings(push="top-k", density=0.1, momentum_correction=0.9)


def poisoned(values: NDArray[np.float32], poison: float, at: int) -> NDArray[np.float32]:
    values = values.copy()
    values[at] = poison
    return values


def owed_of(session: Session) -> NDArray[np.float32]:
    """A copy of the residual, which must not be empty."""
    residual = session.client.residual
    assert residual is not None
    return residual.copy()


def velocities_of(session: Session) -> list[NDArray[np.float32]]:
    """Copies of what momentum correction carries on, by shard."""
    client = session.client
    states = [client.owed.state(shard.slice, 0, 0) for shard in session.joined.shards]
    return [state.velocity.copy() for state in states if state.velocity is not None]


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
        rounded = push.astype(np.float16).astype(np.float32)
        # The weights are a matrix; bias and norm travel as float32.
        rounded[15:] = push[15:]
        expected = bench.start - np.float32(0.5) * rounded
        np.testing.assert_allclose(bench.cluster.parameters(), expected, rtol=1e-6)
        assert all(shard.version == 1 for shard in bench.cluster.shards())
        np.testing.assert_allclose(owed_of(session), push - rounded, atol=1e-7)
        await session.leave()

    run(work())


@pytest.mark.parametrize("codec", PUSH_CODECS)
def test_nothing_is_lost_in_the_sum(codec: str) -> None:
    bench = Bench(WIDTH, codec=codec if codec in ("identity", "q4") else "q8", servers=2)

    async def work() -> None:
        session = await bench.session()
        session.client.coding.push = Choice(codec, "none")
        total = np.zeros_like(bench.start)
        for seed in range(20):
            push = gradient(bench, seed)
            total += push
            await session.client.exchange(push, 8)
            session.take()
        applied = (bench.start - bench.cluster.parameters()) / np.float32(0.5)
        owed = 0.0 if codec == "identity" else owed_of(session)
        np.testing.assert_allclose(applied + owed, total, atol=1e-4)
        await session.leave()

    run(work())


def test_nothing_is_lost_through_switches_refusals_and_joining_again() -> None:
    bench = Bench(WIDTH, codec="q8", sync=LAGGING, servers=2)
    rng = np.random.default_rng(0)

    async def work() -> None:
        slow, fast = await bench.session("slow"), await bench.session("fast", 200)
        total = np.zeros_like(bench.start)
        refused = 0
        for step in range(200):
            slow.client.coding.push = Choice(PUSH_CODECS[rng.integers(len(PUSH_CODECS))], "none")
            if step % 3 == 0:
                await fast.client.pull()
                fast.take()
                other = gradient(bench, 1000 + step)
                total += other
                await fast.client.exchange(other.copy(), 8)
            if step == 100:
                await slow.rejoin()
            push = 0.1 * gradient(bench, step)
            total += push
            result = await slow.client.exchange(push, 8)
            refused += result.statuses.count(Status.REFUSED_LAG)
            slow.take()
        assert refused > 50
        applied = (bench.start - bench.cluster.parameters()) / np.float32(0.5)
        owed = owed_of(fast)
        if slow.client.residual is not None:
            owed += slow.client.residual
        np.testing.assert_allclose(applied + owed, total, atol=2e-3)
        await slow.leave()
        await fast.leave()

    run(work())


@pytest.mark.parametrize("codec", PUSH_CODECS)
def test_a_push_that_was_refused_as_too_old_goes_back_to_the_residual(codec: str) -> None:
    bench = Bench(WIDTH, codec="q8", sync=LAGGING)

    async def work() -> None:
        slow, fast = await bench.session("slow"), await bench.session("fast", 200)
        slow.client.coding.push = Choice(codec, "none")
        await slow.client.exchange(gradient(bench, 1), 8)
        slow.take()
        owed = 0.0 if codec == "identity" else owed_of(slow)
        await fast.client.pull()
        fast.take()
        await fast.client.exchange(gradient(bench, 2), 8)
        parameters = bench.cluster.parameters()
        push = gradient(bench, 3)
        result = await slow.client.exchange(push.copy(), 8)
        assert result.statuses == (Status.REFUSED_LAG,)
        assert result.lag == 1
        np.testing.assert_array_equal(bench.cluster.parameters(), parameters)
        np.testing.assert_allclose(owed_of(slow), owed + push, atol=1e-5)
        slow.take()
        slow.client.coding.push = Choice("identity", "none")
        await slow.client.exchange(np.zeros_like(push), 8)
        assert slow.client.residual is None
        applied = (parameters - bench.cluster.parameters()) / np.float32(0.5)
        np.testing.assert_allclose(applied, owed + push, atol=1e-5)
        await slow.leave()
        await fast.leave()

    run(work())


@pytest.mark.parametrize("lost", ["lose_request", "lose_reply"])
def test_what_a_refused_push_carried_is_not_lost_with_the_reply(lost: str) -> None:
    bench = Bench(WIDTH, codec="q8", sync=LAGGING)

    async def work() -> None:
        slow, fast = await bench.session("slow"), await bench.session("fast", 200)
        await fast.client.exchange(gradient(bench, 1), 8)
        push = gradient(bench, 2)
        getattr(bench.cluster.network, lost)[EXCHANGE] = 1
        result = await slow.client.exchange(push.copy(), 8)
        assert result.statuses == (Status.REFUSED_LAG,)
        np.testing.assert_allclose(owed_of(slow), push, atol=1e-6)
        await slow.leave()
        await fast.leave()

    run(work())


@pytest.mark.parametrize("codec", PUSH_CODECS)
@pytest.mark.parametrize("at", [0, 300, -1])
def test_one_bad_value_keeps_the_push_from_every_shard(codec: str, at: int) -> None:
    bench = Bench(WIDTH, servers=2, codec="q8")

    async def work() -> None:
        session = await bench.session()
        await session.client.exchange(gradient(bench, 0), 8)
        session.take()
        owed, parameters = owed_of(session), bench.cluster.parameters()
        session.client.coding.push = Choice(codec, "none")
        for poison in (np.nan, np.inf, -np.inf):
            push = session.client.encode(poisoned(gradient(bench, 1), poison, at), 8)
            assert not push.finite
            assert all(piece.payload_bytes == 0 for piece in push.pieces)
            result = await session.client.send(push)
            assert result.statuses == (Status.REFUSED_NONFINITE,) * 2
            assert result.nonfinite
            session.take()
            np.testing.assert_array_equal(bench.cluster.parameters(), parameters)
            np.testing.assert_allclose(owed_of(session), owed, atol=2e-5)
        good = await session.client.exchange(gradient(bench, 2), 8)
        assert good.statuses == (Status.APPLIED,) * 2
        await session.leave()

    run(work())


@pytest.mark.parametrize("codec", PUSH_CODECS)
def test_a_push_that_was_given_up_leaves_the_residual_as_it_was(codec: str) -> None:
    bench = Bench(WIDTH, servers=2, codec="q8")

    async def work() -> None:
        session = await bench.session()
        await session.client.exchange(gradient(bench, 1), 8)
        session.take()
        owed = owed_of(session)
        session.client.coding.push = Choice(codec, "none")
        await bench.cluster.expel(session.joined.worker)
        with pytest.raises(Rejoin):
            await session.client.exchange(gradient(bench, 2), 8)
        np.testing.assert_allclose(owed_of(session), owed, atol=1e-5)
        await session.rejoin()
        np.testing.assert_allclose(owed_of(session), owed, atol=1e-5)
        await session.leave()

    run(work())


@pytest.mark.parametrize("way", ["given up", "not finite"])
def test_momentum_correction_forgets_a_push_that_no_shard_took(way: str) -> None:
    bench = Bench(WIDTH, servers=2, coding=CORRECTED)

    async def work() -> None:
        session = await bench.session()
        await session.client.exchange(gradient(bench, 1), 8)
        session.take()
        owed, velocities = owed_of(session), velocities_of(session)
        assert all(velocity.any() for velocity in velocities)
        if way == "given up":
            await bench.cluster.expel(session.joined.worker)
            with pytest.raises(Rejoin):
                await session.client.exchange(gradient(bench, 2), 8)
        else:
            bad = poisoned(gradient(bench, 2), np.nan, 300)
            assert (await session.client.exchange(bad, 8)).nonfinite
        np.testing.assert_array_equal(owed_of(session), owed)
        for after, before in zip(velocities_of(session), velocities, strict=True):
            np.testing.assert_array_equal(after, before)
        await session.leave()

    run(work())


@pytest.mark.parametrize("codec", PUSH_CODECS)
def test_what_a_codec_takes_for_infinite_does_not_stay_in_the_residual(codec: str) -> None:
    bench = Bench(WIDTH, codec="q8")

    async def work() -> None:
        session = await bench.session()
        await session.client.exchange(gradient(bench, 0), 8)
        session.take()
        owed = owed_of(session)
        session.client.coding.push = Choice(codec, "none")
        push = poisoned(gradient(bench, 1), 3e38, 300)
        result = await session.client.exchange(poisoned(push, np.nan, -1), 8)
        assert result.nonfinite
        left = owed_of(session)
        assert abs(left[300]) <= abs(owed[300]), "so large a number may have swallowed it"
        np.testing.assert_allclose(np.delete(left, 300), np.delete(owed, 300), atol=2e-5)
        await session.leave()

    run(work())


def test_large_finite_gradients_are_not_taken_for_infinite() -> None:
    bench = Bench()

    async def work() -> None:
        session = await bench.session()
        for size in (1e15, 1e30):
            assert session.client.encode(np.full_like(bench.start, size), 1).finite
        await session.leave()

    run(work())


@pytest.mark.parametrize(("codec", "expected"), [("q4", [1, 5, 9]), ("identity", range(1, 11))])
def test_buffers_travel_with_every_fourth_lossy_push(codec: str, expected: list[int]) -> None:
    bench = Bench(WIDTH, codec=codec)

    async def work() -> None:
        session = await bench.session()
        carried = []
        for step in range(1, 11):
            norm = bench.model[1]
            norm.running_mean += 1.0
            push = session.encode(8, gradient(bench, step))
            header = push.pieces[0].header
            assert header is not None
            assert bool(header.flags & Flag.BUFFERS) == (header.buffers_bytes > 0)
            if header.buffers_bytes:
                carried.append(step)
            await session.send(push)
            session.take()
        assert carried == list(expected)
        await session.leave()

    run(work())


def test_a_residual_takes_memory_only_once_something_is_owed() -> None:
    bench = Bench()

    async def work() -> None:
        session = await bench.session()
        await session.client.exchange(gradient(bench, 1), 8)
        assert session.client.residual is None
        session.take()
        session.client.coding.push = Choice("q8", "none")
        await session.client.exchange(gradient(bench, 2), 8)
        assert owed_of(session).any()
        session.take()
        session.client.coding.push = Choice("identity", "none")
        await session.client.exchange(gradient(bench, 3), 8)
        assert session.client.residual is None
        await session.leave()

    run(work())
