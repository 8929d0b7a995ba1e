"""Replication between servers on real connections: who is told when, and what the copies become."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from replication_rig import Rig, alike, granted, refused, run, until

from psedge.protocol.errors import RefusedError
from psedge.protocol.replicas import Reign, SetChange
from psedge.protocol.shards import LogSettings
from psedge.protocol.wire import Status
from psedge.server import petition, pump, service


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "DROP_SECONDS", 0.2)


def promoted(rig: Rig, node: int, *learners: int) -> Reign:
    """The reign that follows, under another server."""
    reign = rig.reign
    return msgspec.structs.replace(
        reign,
        term=reign.term + 1,
        revision=reign.revision + 1,
        primary=rig.nodes[node].peer,
        backups=(),
        learners=tuple(rig.nodes[each].peer for each in learners),
    )


@pytest.mark.parametrize("mode", ["asp", "ssp", "bsp"])
@pytest.mark.parametrize("codec", ["identity", "q4", "top-k"])
def test_a_backup_is_the_same_bit_for_bit_when_the_worker_hears(mode: str, codec: str) -> None:
    async def story(rig: Rig) -> None:
        for _ in range(5):
            replies = await asyncio.gather(rig.push(0, codec=codec), rig.push(1, codec=codec))
            assert {reply.status for reply in replies} == {Status.APPLIED}
            assert alike(rig, 0, 1)
        assert rig.nodes[1].parameters.any()
        assert rig.asked == []

    run(Rig(mode), story)


def test_digests_travel_in_the_log() -> None:
    async def story(rig: Rig) -> None:
        await rig.pushes(20)
        assert alike(rig, 0, 1)
        assert rig.nodes[1].replica.at.index > 25

    run(Rig(log=LogSettings(digest_every=3)), story)


def test_a_push_waits_for_the_backup_and_for_no_more_than_its_own_entry() -> None:
    async def story(rig: Rig) -> None:
        rig.nodes[1].hold()
        rig.grants = None
        first, second = rig.push(0), rig.push(1)
        primary = rig.nodes[0].service.hosted[0]
        await until(lambda: len(primary.unacknowledged) == 2)
        assert not first.done()
        assert not second.done()
        rig.nodes[1].go_on()
        assert (await first).status is (await second).status is Status.APPLIED
        assert alike(rig, 0, 1)

    run(Rig(), story)


@pytest.mark.parametrize(
    ("acks", "held", "stalls"),
    [
        ("primary", (1, 2), False),
        ("replica", (1,), False),
        ("replica", (1, 2), True),
        ("all", (1,), True),
        ("all", (), False),
    ],
)
def test_acks_say_how_many_backups_must_have_it(acks: Any, held: Any, stalls: bool) -> None:
    async def story(rig: Rig) -> None:
        await rig.push()
        rig.grants = None
        for node in held:
            rig.nodes[node].hold()
        push = rig.push()
        if stalls:
            await until(lambda: len(rig.asked) > 2)
            assert not push.done()
            for node in held:
                rig.nodes[node].go_on()
        assert (await push).status is Status.APPLIED

    run(Rig(servers=3, acks=acks), story, backups=2)


def test_a_silent_backup_is_dropped_and_comes_back_with_the_tail() -> None:
    async def story(rig: Rig) -> None:
        await rig.pushes(3)
        rig.nodes[1].hold()
        await rig.push()
        assert [(each.action, each.server) for each in rig.asked] == [("drop", 1)]
        assert "not answered" in rig.asked[0].why
        await rig.pushes(5)
        rig.nodes[1].go_on()
        await until(lambda: rig.reign.role_of(1) == "backup")
        await rig.push()
        assert alike(rig, 0, 1)
        assert [each.action for each in rig.asked] == ["drop", "admit"]

    run(Rig(), story)


def test_a_dead_backup_is_dropped_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "DROP_SECONDS", 1000.0)

    async def story(rig: Rig) -> None:
        await rig.push()
        await rig.nodes[1].kill()
        await rig.push()
        assert {each.action for each in rig.asked} == {"drop"}

    run(Rig(), story)


def test_a_learner_gets_an_image_and_the_tail_while_pushes_go_on() -> None:
    async def story(rig: Rig) -> None:
        await rig.pushes(4)
        going_on = asyncio.ensure_future(rig.pushes(10**6, worker=1))
        learner = msgspec.structs.replace(
            rig.reign, revision=rig.reign.revision + 1, learners=(rig.nodes[2].peer,)
        )
        await rig.announce(learner, 0)
        await until(lambda: rig.reign.role_of(2) == "backup")
        assert not going_on.done()
        going_on.cancel()
        await until(lambda: alike(rig, 0, 1, 2))
        assert [(each.action, each.server) for each in rig.asked] == [("admit", 2)]

    run(Rig(servers=3), story)


def test_a_round_of_bsp_that_is_under_way_reaches_a_learner() -> None:
    async def story(rig: Rig) -> None:
        await asyncio.gather(rig.push(0), rig.push(1))
        waiting = rig.push(0)
        await until(lambda: rig.nodes[1].replica.at == rig.nodes[0].replica.at)
        learner = msgspec.structs.replace(
            rig.reign, revision=rig.reign.revision + 1, learners=(rig.nodes[2].peer,)
        )
        await rig.announce(learner, 0)
        await until(lambda: rig.reign.role_of(2) == "backup")
        await asyncio.gather(rig.push(1), waiting)
        await until(lambda: alike(rig, 0, 1, 2))

    run(Rig("bsp", servers=3), story)


def test_a_learner_counts_before_the_supervisor_knows() -> None:
    async def story(rig: Rig) -> None:
        rig.grants = None
        learner = msgspec.structs.replace(rig.reign, revision=1, learners=(rig.nodes[1].peer,))
        await rig.announce(learner, 0)
        await until(lambda: bool(rig.asked))
        assert rig.asked[0].action == "admit"
        rig.nodes[1].hold()
        push = rig.push()
        await until(lambda: any(each.action == "drop" for each in rig.asked))
        assert not push.done()
        rig.nodes[1].go_on()
        await push
        rig.grants = granted
        await until(lambda: rig.reign.role_of(1) == "backup")

    run(Rig(acks="all"), story, backups=0)


def test_who_may_have_been_admitted_is_dropped_before_it_counts_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(petition, "ANSWER_SECONDS", 0.1)

    async def story(rig: Rig) -> None:
        rig.unheard |= {"admit", "drop"}
        learner = msgspec.structs.replace(rig.reign, revision=1, learners=(rig.nodes[1].peer,))
        await rig.announce(learner, 0)
        await until(lambda: rig.reign.role_of(1) == "backup")
        assert rig.nodes[0].replica.reign.role_of(1) == "learner"
        rig.nodes[1].hold()
        push = rig.push()
        await until(lambda: any(each.action == "drop" for each in rig.asked))
        assert not push.done()
        rig.unheard.clear()
        await push
        assert rig.reign.role_of(1) == "learner"
        # The first of them was overtaken by the admission that nobody here had heard of.
        drops = [each.revision for each in rig.asked if each.action == "drop"]
        assert (drops[0], drops[-1]) == (1, 2)

    run(Rig(acks="all"), story, backups=0)


def test_who_is_not_admitted_counts_no_more_once_it_fails() -> None:
    def refuse(reign: Reign, change: SetChange) -> Reign:
        if change.action == "admit":
            raise RefusedError("conflict", "not now")
        return granted(reign, change)

    async def story(rig: Rig) -> None:
        rig.grants = refuse
        learner = msgspec.structs.replace(rig.reign, revision=1, learners=(rig.nodes[1].peer,))
        await rig.announce(learner, 0)
        await until(lambda: bool(rig.asked))
        rig.nodes[1].hold()
        assert (await rig.push()).status is Status.APPLIED
        assert [each.action for each in rig.asked][-1] == "drop"
        rig.nodes[1].go_on()

    run(Rig(acks="all"), story, backups=0)


def test_no_push_counts_that_only_a_learner_has() -> None:
    """Whether it is admitted is not known here, and it would not be asked in a fail-over."""

    async def story(rig: Rig) -> None:
        rig.grants = None
        learner = msgspec.structs.replace(rig.reign, revision=1, learners=(rig.nodes[2].peer,))
        await rig.announce(learner, 0)
        await until(lambda: len(rig.nodes[0].replica.in_set()) == 2)
        rig.nodes[1].hold()
        push = rig.push()
        await until(lambda: alike(rig, 0, 2))
        await until(lambda: any(each.action == "drop" for each in rig.asked))
        assert not push.done()
        rig.nodes[1].go_on()
        await push

    run(Rig(servers=3), story)


def test_a_backup_that_the_supervisor_doubts_is_dropped_once_another_has_everything() -> None:
    async def story(rig: Rig) -> None:
        await rig.push()
        rig.nodes[2].hold()
        await rig.push()
        primary, told = rig.nodes[0].replica, rig.nodes[1].replica.at
        rig.grants = lambda reign, change: granted(
            msgspec.structs.replace(reign, doubted=()), change
        )
        doubted = msgspec.structs.replace(rig.reign, revision=1, doubted=(1,))
        await rig.announce(doubted, 0)
        push = rig.push()
        await until(lambda: rig.nodes[1].replica.at > told)
        assert not push.done(), "the supervisor counts on this backup no more"
        assert all(each.server != 1 for each in rig.asked)
        rig.nodes[2].go_on()
        await push
        await until(lambda: ("drop", 1) in [(each.action, each.server) for each in rig.asked])
        assert rig.nodes[2].replica.at >= told
        await until(lambda: primary.reign.revision > doubted.revision)

    run(Rig(servers=3), story, backups=2)


def test_a_primary_that_was_deposed_refuses_and_says_so_at_once() -> None:
    async def story(rig: Rig) -> None:
        await rig.push()
        rig.nodes[1].hold()
        rig.grants = None
        waiting = rig.push()
        await until(lambda: len(rig.nodes[0].service.hosted[0].unacknowledged) == 1)
        await rig.announce(promoted(rig, 1), 0)
        assert await refused(waiting) == "not-primary"
        assert await refused(rig.push(1)) == "not-primary"
        assert rig.nodes[0].replica.role == "sealed"

    run(Rig(), story)


def test_a_primary_learns_from_a_sealed_backup_that_it_is_deposed() -> None:
    async def story(rig: Rig) -> None:
        await rig.push()
        state = await rig.seal(1, 2)
        assert (state.role, state.at) == ("sealed", rig.nodes[0].replica.at)
        assert await refused(rig.push()) == "not-primary"
        assert rig.nodes[0].replica.role == "sealed"
        assert rig.asked == []

    run(Rig(), story)


def test_those_at_the_gate_are_sent_away_too() -> None:
    async def story(rig: Rig) -> None:
        waiting = rig.push(0)
        await until(lambda: bool(rig.nodes[0].service.hosted[0].waiting))
        await rig.seal(0, 2)
        assert await refused(waiting) == "not-primary"

    run(Rig("bsp"), story)


def test_a_promoted_backup_recognises_a_retry_and_goes_on() -> None:
    async def story(rig: Rig) -> None:
        await rig.pushes(3)
        before = rig.nodes[0].bits()
        await rig.nodes[0].kill()
        await rig.seal(1, 2)
        await rig.announce(promoted(rig, 1), 1)
        reply = await rig.push(node=1, retry=True)
        assert (reply.status, reply.clock) == (Status.DUPLICATE, 3)
        assert rig.nodes[1].bits() == before
        assert await refused(rig.push(node=1, retry=True, term=1)) == "not-primary"
        assert (await rig.push(node=1)).status is Status.APPLIED

    run(Rig(), story)


@pytest.mark.parametrize("mode", ["asp", "bsp"])
def test_an_old_primary_with_entries_nobody_has_gets_an_image(mode: str) -> None:
    async def story(rig: Rig) -> None:
        await asyncio.gather(rig.push(0), rig.push(1))
        rig.nodes[1].deaf = True
        rig.grants = None
        lost = rig.push(0)
        await until(lambda: rig.nodes[0].replica.at.index > rig.nodes[1].replica.at.index)
        rig.nodes[0].service.hosted[0].depose()
        assert await refused(lost) == "not-primary"
        rig.nodes[1].deaf = False
        rig.grants = granted
        await rig.announce(promoted(rig, 1, 0), 1)
        again = [rig.push(0, node=1, retry=True), rig.push(1, node=1)]
        assert {reply.status for reply in await asyncio.gather(*again)} == {Status.APPLIED}
        await until(lambda: rig.reign.role_of(0) == "backup")
        await until(lambda: alike(rig, 0, 1))

    run(Rig(mode), story)


def test_a_primary_without_lease_or_backup_acknowledges_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "ACKNOWLEDGE_SECONDS", 0.3)

    async def story(rig: Rig) -> None:
        await rig.push()
        await rig.stop_supervisor()
        rig.nodes[1].hold()
        assert await refused(rig.push()) == "not-primary"
        rig.nodes[1].go_on()
        assert (await rig.push(retry=True)).status is Status.DUPLICATE

    run(Rig(acks="primary"), story, lease_seconds=-1.0)


def test_the_death_of_the_supervisor_stalls_nobody() -> None:
    async def story(rig: Rig) -> None:
        await rig.stop_supervisor()
        await rig.pushes(10)
        assert alike(rig, 0, 1)

    run(Rig(), story, lease_seconds=-1.0)


def test_a_lease_that_is_renewed_sets_free_who_waits() -> None:
    async def story(rig: Rig) -> None:
        rig.grants = None
        rig.nodes[1].hold()
        push = rig.push()
        await until(lambda: len(rig.nodes[0].service.hosted[0].unacknowledged) == 1)
        rig.nodes[0].service.renew(rig.clock.now() + 100.0)
        assert (await push).status is Status.APPLIED

    run(Rig(acks="primary"), story, lease_seconds=-1.0)
