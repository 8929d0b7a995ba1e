"""What a primary asks for comes late, or after something that it had not heard of when it asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from guardian_rig import GuardedRig
from replication_rig import Rig, alike, granted, until
from replication_rig import run as run_servers
from supervisor_rig import run

from psedge.protocol.replicas import SET_CHANGE, Reign, SetChange
from psedge.protocol.wire import Status
from psedge.server import pump


def test_an_admission_that_was_given_up_is_not_granted_later(tmp_path: Path) -> None:
    """However long it was on its way, and whatever the learner has become since."""

    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        term, peer = rig.reign(0).term, rig.reign(0).backups[0]
        fleet, late = rig.fleet, list[SetChange]()

        async def asked(action: Any) -> Reign:
            """What the primary asks for, which goes by the reign as it is."""
            change = SetChange(0, term, rig.reign(0).revision, 1, action, "so it is")
            late.append(msgspec.structs.replace(change, action="admit"))
            reign: Reign = await rig.ask(SET_CHANGE, change)
            return reign

        for _ in range(2):
            # The first time it is a backup, the second time a learner.
            assert (await asked("drop")).role_of(1) is None
            await fleet.decrees.decree(lambda: fleet.table.recruited(0, peer, "a copy is missing"))
            learning = rig.reign(0)
            for change in late:
                assert await rig.ask(SET_CHANGE, change) == learning
            assert learning.role_of(1) == "learner"
        assert (await asked("admit")).role_of(1) == "backup"

    run(story())


def test_two_learners_are_admitted_although_one_overtakes_the_other() -> None:
    async def story(rig: Rig) -> None:
        rig.grants = None
        learners = tuple(node.peer for node in rig.nodes[1:])
        await rig.announce(msgspec.structs.replace(rig.reign, revision=1, learners=learners), 0)
        await until(lambda: {each.server for each in rig.asked} == {1, 2})
        rig.grants = granted
        await until(lambda: len(rig.nodes[0].replica.reign.backups) == 2)
        assert rig.asked[-1].revision == 2

    run_servers(Rig(acks="all", servers=3), story, backups=0)


def test_who_fails_when_its_admission_is_overtaken_counts_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pump, "DROP_SECONDS", 0.2)

    async def story(rig: Rig) -> None:
        rig.grants = None
        learner = msgspec.structs.replace(rig.reign, revision=1, learners=(rig.nodes[1].peer,))
        await rig.announce(learner, 0)
        await until(lambda: bool(rig.asked))
        rig.nodes[1].hold()
        push = rig.push()
        await until(lambda: any(each.action == "drop" for each in rig.asked))
        assert not push.done()
        # What was asked for under the reign before is not granted any more, and nobody asks again.
        await rig.announce(msgspec.structs.replace(learner, revision=2), 0)
        assert (await push).status is Status.APPLIED
        rig.nodes[1].go_on()
        rig.grants = granted
        await until(lambda: rig.nodes[0].replica.reign.role_of(1) == "backup")
        await until(lambda: alike(rig, 0, 1))

    run_servers(Rig(acks="all"), story, backups=0)
