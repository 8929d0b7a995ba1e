"""A supervisor that finds its servers gone, and goes back to the checkpoint."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from restart_rig import Life
from supervisor_rig import run
from tiny_cluster import until

from psedge.protocol import messages
from psedge.protocol.ports import Incoming, Reply
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION
from psedge.server.service import ShardService


def servers_are_gone(rig: Life) -> None:
    for url in list(rig.network.routes):
        if "10.0.0" in url:
            del rig.network.routes[url]


async def new_servers(rig: Life) -> None:
    """On other machines than those of the run."""
    rig.services = [ShardService(rig.clock) for _ in rig.services]
    for server in (0, 1):
        host = f"10.0.1.{server}"
        rig.network.routes[f"http://{host}:7700"] = rig.services[server].routes()
        reply = await rig.ask(
            messages.REGISTER,
            messages.Register(__version__, WIRE_VERSION, host, 7700, 100 + server, ("none",)),
        )
        rig.services[server].server = reply.server


def test_lost_servers_and_a_checkpoint_to_go_back_to(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        checkpoint = await rig.checkpoint()
        terms = [shard.term for shard in (await rig.status()).shards]
        servers_are_gone(rig)
        await rig.reborn(checkpoint=checkpoint)
        status = await rig.wait_for(lambda status: status.phase == "waiting")
        assert any("goes back to the checkpoint" in note for note in status.notes)
        assert (await rig.claim(0, 1, number=1)).state == "rejoin"
        # New servers come, the workers join again, and terms only rise.
        await new_servers(rig)
        with pytest.raises(Exception, match="1 more of 2 workers"):
            await rig.join("a", 11)
        await rig.join("b", 12)
        status = await rig.status()
        assert status.phase == "training"
        assert all(shard.term > term for shard, term in zip(status.shards, terms, strict=True))
        assert [worker.name for worker in status.workers] == ["a", "b"]
        rig.die()

    run(story())


def test_a_supervisor_that_dies_while_it_hands_out_what_it_went_back_to(tmp_path: Path) -> None:
    """The next one does not take those shards for the ones that were given up."""

    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        checkpoint = await rig.checkpoint()
        servers_are_gone(rig)
        await rig.reborn(checkpoint=checkpoint)
        await rig.wait_for(lambda status: status.phase == "waiting")
        await new_servers(rig)
        never = asyncio.Event()

        async def silent(incoming: Incoming) -> Reply:
            await never.wait()
            raise AssertionError("nobody waits for this")

        rig.network.routes["http://10.0.1.1:7700"][messages.SHARD_ASSIGN] = silent
        with pytest.raises(Exception, match="1 more of 2 workers"):
            await rig.join("a", 11)
        joining = asyncio.ensure_future(rig.join("b", 12))
        table = rig.supervisor.state.fleet.table
        await until(lambda: len(table.reigns()) == 2)
        joining.cancel()
        await rig.reborn(checkpoint=checkpoint, beside=None)
        assert (await rig.status()).phase == "waiting"
        await new_servers(rig)
        with pytest.raises(Exception, match="1 more of 2 workers"):
            await rig.join("a", 21)
        await rig.join("b", 22)
        status = await rig.status()
        assert status.phase == "training"
        assert sum("is lost" in event.reason for event in status.journal) == 1
        rig.die()

    run(story())
