"""A shard whose primary is lost: the same push goes to the next one, once, and nothing is owed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import torch
from moving_cluster import Cluster, until
from torch import nn

from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.errors import RefusedError
from psedge.protocol.system_clock import SystemClock
from psedge.protocol.wire import NO_POSITION, Kind, Status
from psedge.worker.client import Rejoin, ShardClient, StopTraining
from psedge.worker.shard_link import NO_VERSION

PATIENCE_SECONDS = 20.0


class Rig:
    """A client of an open cluster, and what it told people."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.notes: list[str] = []
        self.transport = AiohttpTransport()
        self.client = ShardClient(
            self.transport,
            SystemClock(),
            cluster.welcome(),
            cluster.address,
            7,
            cluster.binding,
            self.notes.append,
        )
        self.sent = np.zeros_like(cluster.binding.parameters)

    def gradient(self, seed: int) -> Any:
        rng = np.random.default_rng(seed)
        return rng.standard_normal(len(self.sent)).astype(np.float32)

    async def step(self, seed: int) -> tuple[Status, ...]:
        gradient = self.gradient(seed)
        result = await self.client.exchange(gradient, 8)
        self.client.take()
        self.sent += gradient
        np.testing.assert_array_equal(self.cluster.binding.parameters, self.cluster.parameters())
        return result.statuses

    def check_nothing_lost(self) -> None:
        residual = self.client.residual
        owed = np.zeros_like(self.sent) if residual is None else residual
        np.testing.assert_allclose(self.cluster.total() + owed, self.sent, atol=1e-5)
        self.client.check_invariants()


def story(
    tell: Callable[[Rig], Awaitable[None]], *, shards: int = 1, servers: int = 2, push: str = "q4"
) -> Rig:
    """Run `tell` in a cluster whose worker has taken two steps."""

    async def whole() -> Rig:
        torch.manual_seed(0)
        cluster = await Cluster(nn.Linear(40, 8), shards, push).open(servers)
        rig = Rig(cluster)
        try:
            await rig.client.pull()
            rig.client.take()
            for seed in (1, 2):
                assert await rig.step(seed) == (Status.APPLIED,) * shards
            await tell(rig)
            rig.check_nothing_lost()
            assert rig.client.directory._query is None, "nothing is missed"
        finally:
            rig.client.close()
            await rig.transport.close()
            await cluster.close()
        return rig

    return asyncio.run(asyncio.wait_for(whole(), PATIENCE_SECONDS))


@pytest.mark.parametrize("push", ["identity", "q4"])
@pytest.mark.parametrize("way", ["gone", "deaf", "not-primary", "not-ready"])
def test_a_push_goes_to_the_new_primary_under_its_sequence(way: Any, push: str) -> None:
    async def tell(rig: Rig) -> None:
        old, new = rig.cluster.servers
        if way == "gone":
            await old.go()
        else:
            old.mood = way
        step = asyncio.ensure_future(rig.step(3))
        await until(lambda: rig.cluster.queries)
        assert rig.cluster.queries[0].suspects == (0,)
        assert not step.done()
        rig.cluster.move(0, to=1)
        assert await step == (Status.DUPLICATE if way == "deaf" else Status.APPLIED,)
        first = new.headers[0]
        assert (first.kind, first.sequence, first.term) == (Kind.EXCHANGE, 3, 2)
        assert (first.position, first.buffers_version) == (NO_POSITION, NO_VERSION)
        assert await rig.step(4) == (Status.APPLIED,)
        assert new.headers[1].position != NO_POSITION

    rig = story(tell, push=push)
    assert rig.notes[-1].endswith(f"shard 0 is now on {rig.cluster.servers[1].url}")
    assert len(rig.notes) <= 2


def test_one_line_says_what_happened_when_it_is_mended_at_once() -> None:
    async def tell(rig: Rig) -> None:
        old, new = rig.cluster.servers
        await old.go()
        rig.cluster.move(0, to=1)
        await rig.step(3)
        assert rig.notes == [f"server {old.url} does not answer; shard 0 is now on {new.url}"]

    story(tell)


def test_a_primary_that_was_only_away_for_a_moment_is_tried_again() -> None:
    async def tell(rig: Rig) -> None:
        old = rig.cluster.servers[0]
        await old.go()
        step = asyncio.ensure_future(rig.step(3))
        await until(lambda: rig.notes)
        await old.come_back()
        assert await step == (Status.APPLIED,)
        assert old.headers[-1].term == 1
        assert rig.notes[0] == f"server {old.url} does not answer; trying again"
        assert rig.notes[1].startswith(f"server {old.url} answers again after")

    story(tell)


def test_shards_that_are_lost_together_are_asked_for_together() -> None:
    async def tell(rig: Rig) -> None:
        await rig.cluster.servers[0].go()
        step = asyncio.ensure_future(rig.step(3))
        await until(lambda: rig.cluster.queries)
        rig.cluster.move(0, 1, to=1)
        await step
        assert [query.suspects for query in rig.cluster.queries] == [(0, 1)]
        old, new = rig.cluster.servers
        assert rig.notes[-1].endswith(f"shards 0 and 1 are now on {new.url}")
        assert sum(old.url in note for note in rig.notes) == 1

    story(tell, shards=2)


def test_a_shard_that_is_lost_later_joins_the_query() -> None:
    async def tell(rig: Rig) -> None:
        rig.cluster.move(1, to=1)
        await rig.cluster.servers[0].go()
        rig.cluster.servers[1].mood = "silent"
        step = asyncio.ensure_future(rig.step(3))
        # The answer of the map brings shard 1 to its new server, which then dies too.
        await until(lambda: rig.cluster.servers[1].headers)
        await rig.cluster.servers[1].go()
        await until(lambda: rig.cluster.queries[-1].suspects == (0, 1))
        rig.cluster.move(0, 1, to=2)
        await step
        terms = {(header.shard, header.term) for header in rig.cluster.servers[2].headers}
        assert terms == {(0, 2), (1, 3)}

    story(tell, shards=2, servers=3)


def test_a_frozen_primary_is_left_as_soon_as_a_heartbeat_tells_of_a_newer_map() -> None:
    async def tell(rig: Rig) -> None:
        old, new = rig.cluster.servers
        old.mood = "silent"
        old.asked.clear()
        step = asyncio.ensure_future(rig.step(3))
        await old.asked.wait()
        rig.cluster.move(0, to=1)
        assert not rig.cluster.queries
        rig.client.directory.heard(rig.cluster.revision)
        assert await step == (Status.APPLIED,)
        assert rig.cluster.queries[0].suspects == ()
        assert (new.headers[0].sequence, new.headers[0].term) == (3, 2)
        assert rig.notes == [f"shard 0 is now on {new.url}"]
        # What is known already is not asked for.
        rig.client.directory.heard(rig.cluster.revision)
        assert len(rig.cluster.queries) == 1

    story(tell)


def test_another_term_of_the_same_server_is_a_new_primary_too() -> None:
    async def tell(rig: Rig) -> None:
        server = rig.cluster.servers[0]
        server.mood = "silent"
        server.asked.clear()
        step = asyncio.ensure_future(rig.step(3))
        await server.asked.wait()
        server.mood = "well"
        rig.cluster.move(0, to=0)
        rig.client.directory.heard(rig.cluster.revision)
        assert await step == (Status.APPLIED,)
        assert (server.headers[-1].term, server.headers[-1].position) == (2, NO_POSITION)
        assert rig.notes == []

    story(tell)


@pytest.mark.parametrize("back", ["supervisor", "server"])
def test_while_the_supervisor_is_away_too_both_are_tried(back: str) -> None:
    async def tell(rig: Rig) -> None:
        cluster = rig.cluster
        await cluster.abandon()
        await cluster.servers[0].go()
        step = asyncio.ensure_future(rig.step(3))
        await until(lambda: rig.notes)
        if back == "server":
            await cluster.servers[0].come_back()
        else:
            cluster.move(0, to=1)
            await cluster.supervise()
        assert await step == (Status.APPLIED,)
        # The supervisor's absence alone disturbs nobody.
        if back == "server":
            assert await rig.step(4) == (Status.APPLIED,)

    story(tell)


def test_a_request_that_is_given_up_ends_the_query_too() -> None:
    async def tell(rig: Rig) -> None:
        await rig.cluster.servers[0].go()
        step = asyncio.ensure_future(rig.step(3))
        await until(lambda: rig.cluster.queries)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step

    story(tell)


def test_a_request_may_be_given_up_in_the_moment_in_which_its_shard_moves() -> None:
    async def tell(rig: Rig) -> None:
        cluster, old = rig.cluster, rig.cluster.servers[0]
        old.mood = "silent"
        old.asked.clear()
        step = asyncio.ensure_future(rig.step(3))
        await old.asked.wait()
        cluster.move(0, to=1)
        rig.client.directory.take(cluster.revision, cluster.addresses())
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        assert cluster.servers[1].headers == []

    story(tell)


@pytest.mark.parametrize(
    ("code", "ending"), [("unknown-worker", Rejoin), ("stopped", StopTraining)]
)
def test_the_supervisors_word_ends_the_wait(code: str, ending: type[Exception]) -> None:
    async def tell(rig: Rig) -> None:
        rig.cluster.refusal = RefusedError(code, "in so many words")
        await rig.cluster.servers[0].go()
        with pytest.raises(ending, match="in so many words"):
            await rig.step(3)

    story(tell, shards=2)


def test_a_shard_that_does_not_know_the_worker_makes_it_join_again() -> None:
    async def tell(rig: Rig) -> None:
        rig.cluster.servers[0].mood = "unknown-worker"
        with pytest.raises(Rejoin):
            await rig.step(3)
        assert rig.cluster.queries == []

    story(tell)


def test_an_older_map_changes_nothing() -> None:
    async def tell(rig: Rig) -> None:
        cluster = rig.cluster
        before = cluster.addresses()
        cluster.move(0, to=1)
        rig.client.directory.take(cluster.revision, cluster.addresses())
        rig.client.directory.take(cluster.revision - 1, before)
        rig.client.directory.take(cluster.revision, before)
        assert rig.client.directory.address(0)[0].url == cluster.servers[1].url
        assert await rig.step(3) == (Status.APPLIED,)

    story(tell)
