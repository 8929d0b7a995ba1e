"""When a primary wants a peer in its set, and when out, by how it answers."""

from __future__ import annotations

from typing import Any

import msgspec
from replication_rig import Rig, run, until

from psedge.protocol.replicas import Peer
from psedge.server import pump

#: No client takes it: there is no such port.
WRONG_URL = "http://10.0.0.1:99999"


def test_a_learner_is_admitted_however_much_is_written_during_a_round_trip() -> None:
    async def story(rig: Rig) -> None:
        door, rounds = rig.nodes[1]._door, 0

        async def slow(incoming: Any) -> Any:
            nonlocal rounds
            rounds += 1
            if not rig.nodes[0].replica.in_set() and rounds < 30:
                await rig.pushes(3 * pump.ADMIT_LAG)
            return await door(incoming)

        rig.nodes[1]._door = slow  # type: ignore[assignment]
        learner = msgspec.structs.replace(rig.reign, revision=1, learners=(rig.nodes[1].peer,))
        await rig.announce(learner, 0)
        await until(lambda: rig.reign.role_of(1) == "backup")
        assert rounds < 30

    run(Rig(), story, backups=0)


def test_a_backup_whose_address_is_none_is_dropped() -> None:
    async def story(rig: Rig) -> None:
        wrong = msgspec.structs.replace(rig.reign, revision=1, backups=(Peer(5, WRONG_URL),))
        await rig.announce(wrong, 0)
        await rig.push()
        assert [each.server for each in rig.asked] == [5]
        assert "is not an address" in rig.asked[0].why

    run(Rig(), story, backups=0)
