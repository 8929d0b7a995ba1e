"""A session over what happens to servers and supervisor, without joining again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
import torch
from moving_cluster import Cluster, until
from torch import nn

import psedge
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.messages import Experiment
from psedge.protocol.system_clock import SystemClock
from psedge.protocol.wire import Status
from psedge.worker.control import SupervisorClient
from psedge.worker.session import Identity, Session

PATIENCE_SECONDS = 20.0


class Rig:
    """A joined worker of an open cluster, and what it told people."""

    def __init__(self, cluster: Cluster, transport: AiohttpTransport) -> None:
        self.cluster = cluster
        self.notes: list[str] = []
        clock = SystemClock()
        identity = Identity("pi", "test", 7, loader=True, process=4711, machine="hall-1")
        self.session = Session(
            transport,
            clock,
            SupervisorClient(transport, clock, cluster.address, self.notes.append),
            cluster.binding,
            identity,
            self.notes.append,
        )

    async def step(self, seed: int) -> tuple[Status, ...]:
        gradient = np.random.default_rng(seed).standard_normal(len(self.session.binding.parameters))
        push = self.session.encode(8, gradient.astype(np.float32))
        result = await self.session.send(push)
        self.session.take()
        np.testing.assert_array_equal(self.session.binding.parameters, self.cluster.parameters())
        return result.statuses


def story(tell: Callable[[Rig], Awaitable[None]], *, shards: int = 1) -> Rig:
    async def whole() -> Rig:
        torch.manual_seed(0)
        cluster = await Cluster(nn.Linear(40, 8), shards, "q4").open()
        transport = AiohttpTransport()
        rig = Rig(cluster, transport)
        try:
            await rig.session.start(Experiment("run", {}, cluster.layout, "training"))
            await tell(rig)
            await rig.session.leave()
        finally:
            await transport.close()
            await cluster.close()
        return rig

    return asyncio.run(asyncio.wait_for(whole(), PATIENCE_SECONDS))


def test_a_heartbeat_tells_of_the_move_while_a_frozen_primary_says_nothing() -> None:
    async def tell(rig: Rig) -> None:
        cluster, session = rig.cluster, rig.session
        assert await rig.step(1) == (Status.APPLIED,)
        residual, pushed = session.client.residual, session.client.bytes_pushed
        old, new = cluster.servers
        old.mood = "silent"
        old.asked.clear()
        step = asyncio.ensure_future(rig.step(2))
        await old.asked.wait()
        cluster.move(0, to=1)
        assert await step == (Status.APPLIED,)
        assert new.headers[0].sequence == 2
        assert session.client.residual is residual
        assert session.client.bytes_pushed > pushed
        assert (session.metrics.steps, session.metrics.samples) == (2, 16)
        await until(lambda: cluster.beats[-1].steps == 2)

    rig = story(tell)
    assert len(rig.cluster.joins) == 1
    assert rig.notes == [f"shard 0 is now on {rig.cluster.servers[1].url}"]


def test_training_goes_on_without_the_supervisor_and_nothing_changes_when_it_is_back() -> None:
    async def tell(rig: Rig) -> None:
        await rig.cluster.abandon()
        for seed in range(5):
            await rig.step(seed)
        await until(lambda: rig.notes)
        await rig.step(5)
        beats = len(rig.cluster.beats)
        await rig.cluster.supervise()
        await until(lambda: len(rig.cluster.beats) > beats)
        await rig.step(6)

    rig = story(tell)
    assert len(rig.cluster.joins) == 1
    assert [note.split(" ")[2:4] for note in rig.notes] == [["does", "not"], ["answers", "again"]]


def test_a_claim_whose_answer_is_lost_gets_the_same_range_again() -> None:
    async def tell(rig: Rig) -> None:
        for number in (1, 2, 3):
            claim = asyncio.ensure_future(rig.session.claim(idle=number == 2))
            await until(lambda: rig.cluster.gone)
            assert not claim.done()
            await rig.cluster.supervise()
            assert (await claim).start == 10 * number

    rig = story(tell)
    assert [claim.claim for claim in rig.cluster.claims] == [1, 1, 2, 2, 3, 3]
    assert {claim.incarnation for claim in rig.cluster.claims} == {7}


def test_claims_begin_anew_with_an_incarnation() -> None:
    async def tell(rig: Rig) -> None:
        for _ in range(2):
            claim = asyncio.ensure_future(rig.session.claim(idle=False))
            await until(lambda: rig.cluster.gone)
            await rig.cluster.supervise()
            await claim
            await rig.session.rejoin()

    rig = story(tell)
    assert [claim.claim for claim in rig.cluster.claims] == [1, 1, 1, 1]
    assert [join.incarnation for join in rig.cluster.joins] == [7, 8, 9]


def test_a_claim_ends_when_the_worker_is_stopped() -> None:
    async def tell(rig: Rig) -> None:
        await rig.cluster.abandon()
        claim = asyncio.ensure_future(rig.session.claim(idle=False))
        await until(lambda: rig.notes)
        rig.session.request_stop("Ctrl-C")
        with pytest.raises(psedge.StopTraining, match="Ctrl-C"):
            await claim
        assert await rig.step(1) == (Status.APPLIED,), "the step that was begun is finished"

    rig = story(tell)
    assert rig.notes[-1].startswith("left without saying goodbye")


def test_who_joins_says_where_it_runs() -> None:
    async def tell(rig: Rig) -> None:
        return

    join = story(tell).cluster.joins[0]
    assert (join.process, join.machine) == (4711, "hall-1")


def test_a_loop_of_ones_own_goes_on_over_a_fail_over() -> None:
    async def whole() -> None:
        torch.manual_seed(0)
        cluster = await Cluster(nn.Linear(6, 2), 2).open()
        notes: list[str] = []
        try:
            url = cluster.address.url
            async with await psedge.aconnect(url, cluster.model, notify=notes.append) as run:
                for step in range(1, 7):
                    cluster.model(torch.randn(8, 6)).square().sum().backward()
                    if step == 3:
                        await cluster.servers[0].go()
                        cluster.move(0, 1, to=1)
                    result = await run.astep(8)
                    assert result is not None
                    assert result.statuses == (Status.APPLIED, Status.APPLIED)
                    cluster.binding.read_model()
                    np.testing.assert_array_equal(cluster.binding.parameters, cluster.parameters())
        finally:
            await cluster.close()
        assert [shard.version for shard in cluster.shards] == [6, 6]
        assert len(cluster.joins) == 1
        assert cluster.joins[0].process > 0
        assert notes[-1].endswith(f"shards 0 and 1 are now on {cluster.servers[1].url}")

    asyncio.run(asyncio.wait_for(whole(), PATIENCE_SECONDS))
