"""What servers tell the supervisor of their copies, and what it tells them, on real connections."""

from __future__ import annotations

import msgspec
import pytest
from replication_rig import Rig, alike, refused, run, until

from psedge.protocol.address import Address
from psedge.protocol.calls import ask
from psedge.protocol.errors import RefusedError
from psedge.protocol.messages import SHARD_MEMBERS, SHARD_STATE
from psedge.protocol.shards import Member, Members, ServerReport
from psedge.server import reports, service


def test_the_supervisor_hears_of_progress_only_when_it_is_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reports, "NEWS_SECONDS", 0.05)
    monkeypatch.setattr(service, "MEMBERS_SECONDS", 0.05)
    monkeypatch.setattr(service, "STATE_SECONDS", 0.05)

    async def story(rig: Rig) -> None:
        await rig.push()
        rig.nodes[1].hold()
        rig.grants = None
        push = rig.push()
        hosted = rig.nodes[0].service.hosted[0]
        await until(lambda: len(hosted.unacknowledged) == 1)
        report, heard = await rig.nodes[0].service.news()
        heard()
        assert (report.shards[0].workers, report.shards[0].revision) == ((), -1)
        assert (await rig.tell(0, 1, 2)).shards[0].revision == -1
        with pytest.raises(RefusedError, match="not acknowledged"):
            await rig.post(rig.nodes[0], SHARD_STATE, b"{}")
        rig.nodes[1].go_on()
        await push
        report, heard = await rig.nodes[0].service.news()
        assert [each.sequence for each in report.shards[0].workers] == [2]
        assert report.shards[0].revision == rig.revision
        assert len(await rig.post(rig.nodes[0], SHARD_STATE, b"{}")) > 1000
        states = (await rig.nodes[1].service.news())[0].replicas
        assert [(state.role, state.at) for state in states] == [("backup", rig.nodes[0].replica.at)]

    run(Rig(), story)


def test_a_backup_is_asked_neither_for_members_nor_for_state() -> None:
    async def story(rig: Rig) -> None:
        report = await rig.tell(5, 6, node=1)
        assert report.shards == ()
        assert {member.worker for member in rig.nodes[1].replica.shard.members} == {0, 1}
        assert len(await rig.post(rig.nodes[1], SHARD_STATE, b"{}")) == 0
        assert await refused(rig.push(node=1)) == "not-primary"

    run(Rig(), story)


def test_a_copy_that_nobody_wants_is_given_up_unless_it_has_a_new_place() -> None:
    async def story(rig: Rig) -> None:
        backup = rig.nodes[1].service
        report = backup.report()
        await rig.announce(msgspec.structs.replace(rig.reign, revision=1), 1)
        backup.obey((0,), report)
        assert list(backup.hosted) == [0]
        backup.obey((0, 7), backup.report())
        assert list(backup.hosted) == []

    run(Rig(), story)


def test_members_reach_the_backups() -> None:
    async def story(rig: Rig) -> None:
        await rig.tell(3, 4)
        change = Members(rig.revision + 1, (Member(5, 1),), since=rig.revision, gone=(3,))
        address = Address(rig.nodes[0].url)
        report = await ask(rig.client, address, SHARD_MEMBERS, change, ServerReport)
        assert report.shards[0].revision == rig.revision + 1
        assert alike(rig, 0, 1)
        assert [each.worker for each in rig.nodes[1].replica.shard.members] == [4, 5]

    run(Rig(), story)
