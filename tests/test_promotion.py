"""Who is promoted when the supervisor learns more while its decision is on its way."""

from __future__ import annotations

import asyncio
from pathlib import Path

from guardian_rig import GuardedRig
from supervisor_rig import run

from psedge.protocol.replicas import Position


def test_who_is_heard_of_while_a_promotion_waits_counts_as_well(tmp_path: Path) -> None:
    """Another decree is being stored; meanwhile the copy with more of the log is sealed, too."""

    async def story() -> None:
        rig = GuardedRig(tmp_path, servers=3, replicas=3, acks="all")
        await rig.training()
        guardian = rig.supervisor._guardian
        rig.freeze(2)
        rig.kill(0)
        guardian.suspect([0])
        while 1 not in guardian.sealed(0):
            guardian.look(rig.clock.now())
            await asyncio.sleep(0.0005)
        async with rig.fleet.decrees._one_at_a_time:
            guardian.look(rig.clock.now())
            assert 0 in guardian._busy
            await asyncio.sleep(0)
            guardian._sealings[0].sealed[2] = Position(1, 99)
        rig.thaw(2)
        await rig.turns()
        assert rig.reign(0).primary.server == 2

    run(story())
