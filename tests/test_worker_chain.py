"""Compressed pulls: worker and server hold the same model, bit for bit, whatever happens."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from tiny_cluster import run
from worker_bench import Bench, gradient

from psedge.compression.choice import Choice
from psedge.compression.lossless import available
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import FrameError
from psedge.protocol.messages import EXCHANGE
from psedge.protocol.shards import SyncSettings
from psedge.protocol.wire import NO_POSITION, Content
from psedge.worker.session import Session
from psedge.worker.shard_link import _deltas

WIDTH = 200
LOSSY = ("float16", "bfloat16", "q8", "q4", "ternary", "sign", "ecsq")


def records(bench: Bench, session: Session) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The model that the servers have on record for a worker."""
    found = []
    for service in bench.cluster.services:
        for hosted in service._hosted.values():
            link = session.client._links[hosted.shard.assignment.shard]
            model = hosted.published.model_of(
                session.joined.worker, session._incarnation, link.known_position
            )
            assert model is not None
            found.append(model)
    return np.concatenate(found)


async def step(bench: Bench, session: Session, seed: int) -> list[Content]:
    """One exchange, taken over; returns what each shard's reply was."""
    await session.client.exchange(0.1 * gradient(bench, seed), 8)
    contents = [link.reply.content for link in session.client._links if link.reply is not None]
    session.take()
    return contents


@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize("lossless", available())
@pytest.mark.parametrize("codec", LOSSY)
def test_both_ends_agree_bit_for_bit(codec: str, lossless: str, servers: int) -> None:
    coding = CodingSettings(push="q4", pull=codec, lossless=lossless)
    bench = Bench(WIDTH, servers=servers, coding=coding)

    async def work() -> None:
        one, two = await bench.session("one"), await bench.session("two", 200)
        for seed in range(40):
            for session in (one, two):
                assert await step(bench, session, seed) == [Content.DELTAS] * servers
                np.testing.assert_array_equal(session.binding.parameters, records(bench, session))
        # What is not a matrix is never rounded, and the rest is where the servers are, nearly.
        np.testing.assert_array_equal(
            two.binding.parameters[600:], bench.cluster.parameters()[600:]
        )
        assert np.abs(two.binding.parameters - bench.cluster.parameters()).max() < 0.5
        await one.leave()
        await two.leave()

    run(work())
    assert bench.notes == []


@pytest.mark.parametrize("codec", ["q8", "q4"])
def test_a_chain_ends_where_the_servers_are(codec: str) -> None:
    bench = Bench(WIDTH, codec=codec)

    async def work() -> None:
        session = await bench.session()
        for seed in range(3):
            await step(bench, session, seed)
        for _ in range(12):
            await session.client.pull()
            session.take()
        np.testing.assert_allclose(
            session.binding.parameters, bench.cluster.parameters(), rtol=1e-6, atol=1e-9
        )
        await session.leave()

    run(work())


def test_a_lost_reply_costs_one_snapshot() -> None:
    bench = Bench(WIDTH, codec="q4")

    async def work() -> None:
        session = await bench.session()
        await step(bench, session, 1)
        bench.cluster.network.lose_reply[EXCHANGE] = 1
        assert await step(bench, session, 2) == [Content.WHOLE]
        np.testing.assert_array_equal(session.binding.parameters, records(bench, session))
        assert await step(bench, session, 3) == [Content.DELTAS]
        np.testing.assert_array_equal(session.binding.parameters, records(bench, session))
        await session.leave()

    run(work())


def test_joining_again_begins_with_a_snapshot() -> None:
    bench = Bench(WIDTH, codec="q4", servers=2)

    async def work() -> None:
        session = await bench.session()
        for seed in range(3):
            await step(bench, session, seed)
        await session.rejoin()
        np.testing.assert_array_equal(session.binding.parameters, records(bench, session))
        assert await step(bench, session, 4) == [Content.DELTAS] * 2
        np.testing.assert_array_equal(session.binding.parameters, records(bench, session))
        await session.leave()

    run(work())


def test_parameters_that_were_changed_here_are_found_by_their_digest() -> None:
    bench = Bench(WIDTH, codec="q4")

    async def work() -> None:
        session = await bench.session()
        session.binding.parameters[7] += 0.25
        contents = []
        for seed in range(20):
            contents += await step(bench, session, seed)
        assert contents.count(Content.WHOLE) == 1
        np.testing.assert_array_equal(session.binding.parameters, records(bench, session))
        await session.leave()

    run(work())
    assert len(bench.notes) == 1
    assert "asking for all of them" in bench.notes[0]


def test_the_codec_may_change_at_any_time() -> None:
    bench = Bench(WIDTH, codec="q8", servers=2)

    async def work() -> None:
        session = await bench.session()
        names = [*LOSSY, "identity"]
        for seed in range(40):
            name = names[np.random.default_rng(seed).integers(len(names))]
            session.client.coding.pull = Choice(name, "none")
            contents = await step(bench, session, seed)
            if name == "identity":
                assert contents == [Content.WHOLE] * 2
                expected = bench.cluster.parameters()
            else:
                expected = records(bench, session)
            np.testing.assert_array_equal(session.binding.parameters, expected)
        await session.leave()

    run(work())


@pytest.mark.parametrize("every", [1, 3])
def test_workers_of_a_shared_chain_have_one_model(every: int) -> None:
    coding = CodingSettings(push="q4", pull="q8", chain="shared", publish_every=every)
    bench = Bench(WIDTH, servers=2, coding=coding)

    async def work() -> None:
        one, two = await bench.session("one"), await bench.session("two", 200)
        for seed in range(40):
            await step(bench, one, seed)
            if seed % 5 == 0:
                await step(bench, two, 100 + seed)
                await one.client.pull()
                one.take()
                np.testing.assert_array_equal(one.binding.parameters, two.binding.parameters)
        late = await bench.session("late", 300)
        await one.client.pull()
        one.take()
        np.testing.assert_array_equal(late.binding.parameters, one.binding.parameters)
        for session in (one, two, late):
            await session.leave()

    run(work())
    assert bench.notes == []


def test_bsp_through_a_shared_chain_gives_everyone_the_same() -> None:
    coding = CodingSettings(push="q8", pull="q8", chain="shared")
    bench = Bench(WIDTH, sync=SyncSettings("bsp"), coding=coding)

    async def work() -> None:
        one, two = await bench.session("one"), await bench.session("two", 200)
        for seed in range(5):
            await asyncio.gather(
                one.client.exchange(gradient(bench, seed), 8),
                two.client.exchange(gradient(bench, 100 + seed), 8),
            )
            one.take()
            two.take()
            np.testing.assert_array_equal(one.binding.parameters, two.binding.parameters)
        await one.leave()
        await two.leave()

    run(work())


def test_a_request_says_where_its_worker_will_be_once_it_has_taken_what_waits() -> None:
    bench = Bench(WIDTH, codec="q4")

    async def work() -> None:
        session = await bench.session()
        client = session.client
        assert client._links[0].known_position != NO_POSITION
        # As with overlap: the second push is made before the first one's reply is taken over.
        await client.send(client.encode(gradient(bench, 1), 8))
        second = client.encode(gradient(bench, 2), 8)
        session.take()
        await client.send(second)
        reply = client._links[0].reply
        assert reply is not None
        assert reply.content == Content.DELTAS
        session.take()
        np.testing.assert_array_equal(session.binding.parameters, records(bench, session))
        await session.leave()

    run(work())


def test_differences_that_lie_about_their_length_are_refused() -> None:
    def section(*parts: bytes) -> memoryview:
        return memoryview(b"".join(len(part).to_bytes(4, "little") + part for part in parts))

    assert [bytes(part) for part in _deltas(section(b"ab", b"", b"c"), 3)] == [b"ab", b"", b"c"]
    for payload, count in (
        (section(b"ab"), 0),
        (section(b"ab"), 2),
        (section(b"ab")[:-1], 1),
        (section(b"ab", b"c")[:-4], 2),
        (memoryview(b"\xff\xff\xff\xff"), 1),
        (memoryview(b"\x01"), 1),
    ):
        with pytest.raises(FrameError):
            _deltas(payload, count)
