"""Workers that come again while a restarted supervisor still looks for its servers."""

from __future__ import annotations

import asyncio
from pathlib import Path

from restart_rig import Life
from supervisor_rig import run

from psedge.protocol import messages
from psedge.server.push import Push


async def turns() -> None:
    """Long enough for a request to get where it waits for servers."""
    for _ in range(20):
        await asyncio.sleep(0)


def push(rig: Life, worker: int, incarnation: int, *, samples: int) -> None:
    """A push that the first shard takes, and of which no supervisor has heard yet."""
    rig.services[0].hosted[0].shard.push(Push(worker, incarnation, 1, 0, samples, None))


def test_who_comes_again_gets_nothing_that_the_shards_have_from_it(tmp_path: Path) -> None:
    """Its goodbye is in the book, and how far it came only the first shard knows."""

    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        await rig.claim(0, 1, number=1)
        push(rig, 0, 1, samples=8)
        state = rig.supervisor.state
        state.membership.leave(0, 1)
        await state.save_members()
        await rig.reborn()
        joining = asyncio.ensure_future(rig.join("a", 11))
        await turns()
        await rig.servers_come_back(0)
        assert (await joining).worker == 0
        reply = await rig.claim(0, 11, number=1)
        assert (reply.state, reply.start, reply.stop) == ("range", 8, 16)
        rig.die()

    run(story())


def test_a_name_that_becomes_free_during_a_join_is_settled_as_well(tmp_path: Path) -> None:
    """A worker that seemed to be there is silent by the time its namesake's goodbye is settled."""

    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        await rig.claim(0, 1, number=1)
        push(rig, 0, 1, samples=8)
        await rig.reborn()
        members = rig.supervisor.state.membership
        # "a" is taken for alive, so this one becomes "a-2"; neither join nor goodbye is answered.
        namesake = asyncio.ensure_future(rig.join("a", 11))
        await turns()
        goodbye = asyncio.ensure_future(rig.ask(messages.LEAVE, messages.Leave(2, 11)))
        await turns()
        assert [(entry.name, entry.state) for entry in members.entries()][2:] == [("a-2", "left")]
        joining = asyncio.ensure_future(rig.join("a", 12))
        await turns()
        rig.clock.seconds += 2.0
        await rig.servers_come_back(0)
        await asyncio.gather(namesake, goodbye)
        assert (await joining).worker == 0
        reply = await rig.claim(0, 12, number=1)
        assert (reply.state, reply.start, reply.stop) == ("range", 8, 16)
        rig.die()

    run(story())
