"""Servers die, hang, return and come anew; the supervisor sees to it that each shard goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from guardian_rig import GuardedRig
from supervisor_rig import run

from psedge.protocol import messages
from psedge.protocol.errors import RefusedError
from psedge.protocol.replicas import REPLICA_REIGN, SET_CHANGE, SetChange


def test_each_shard_begins_with_its_copies(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        for shard in (0, 1):
            reign = rig.reign(shard)
            assert (reign.primary.server, reign.backups[0].server) == (shard, 1 - shard)
            ours, others = rig.copy(shard, shard), rig.copy(1 - shard, shard)
            assert ours is not None
            assert others is not None
            assert (ours.role, others.role) == ("primary", "backup")
            assert ours.at == others.at, "the backup has heard who the workers are"
            assert ours.acknowledged == ours.at.index

    run(story())


def test_a_killed_primary_is_replaced_as_soon_as_a_worker_misses_it(tmp_path: Path) -> None:
    """No clock moves: nothing waits for a lease."""

    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        before = await rig.shards(-1)
        rig.kill(1)
        after = await rig.shards(before.revision, 1)
        assert after.revision > before.revision
        assert [(each.url, each.term) for each in after.shards] == [
            (rig.url(0), 1),
            (rig.url(0), 2),
        ]
        copy = rig.copy(0, 1)
        assert copy is not None
        assert (copy.role, copy.term) == ("primary", 2)
        assert any("nobody listens at http://10.0.0.1:7700" in note for note in rig.notes)
        assert rig.supervisor.state.phase == "training"

    run(story())


def test_a_killed_primary_that_nobody_misses_is_found_by_a_probe(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        rig.kill(0)
        seconds = await rig.until(lambda: rig.reign(0).primary.server == 1, 1)
        assert seconds <= 4
        reply = await rig.join("late", 9)
        assert [each.url for each in reply.shards] == [rig.url(1), rig.url(1)]

    run(story())


def test_suspicion_alone_replaces_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        revision = rig.fleet.map_revision
        for _ in range(20):
            rig.supervisor._guardian.suspect([0, 1])
            await rig.pass_time(1, 0, 1)
        assert rig.fleet.map_revision == revision

    run(story())


def test_a_frozen_primary_is_replaced_after_its_lease_and_fenced_when_it_wakes(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        await rig.pass_time(20, 0, 1)
        rig.freeze(1)
        rig.supervisor._guardian.suspect([1])
        seconds = await rig.until(lambda: rig.reign(1).primary.server == 0, 0)
        assert 5 <= seconds <= 10
        zombie = rig.copy(1, 1)
        assert zombie is not None
        assert (zombie.role, zombie.term) == ("primary", 1)
        rig.thaw(1)
        change = SetChange(1, 1, rig.reign(1).revision, 0, "drop", "it does not answer")
        with pytest.raises(RefusedError) as refused:
            await rig.ask(SET_CHANGE, change)
        assert refused.value.code == "stale-term"
        await rig.until(lambda: rig.reign(1).role_of(1) == "backup", 0, 1)
        await rig.pass_time(1, 0, 1)
        returned, primary = rig.copy(1, 1), rig.copy(0, 1)
        assert returned is not None
        assert primary is not None
        assert (returned.role, returned.term) == ("backup", 2)
        assert returned.at == primary.at

    run(story())


def test_a_primary_that_answers_after_all_goes_on_in_a_new_term(tmp_path: Path) -> None:
    """Its heartbeats are lost, and nothing else: it is as good as any copy."""

    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        await rig.until(lambda: rig.reign(1).term > 1, 0)
        assert rig.reign(1).primary.server == 1
        await rig.until(lambda: rig.reign(1).role_of(0) == "backup", 0, 1)

    run(story())


def test_a_spare_learns_what_a_dead_backup_had(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path, servers=3)
        await rig.training()
        # Two shards in a ring of three servers: the third backs the second shard.
        assert rig.reign(1).backups[0].server == 2
        rig.kill(2)
        await rig.until(lambda: rig.reign(1).role_of(0) == "backup", 0, 1)
        assert rig.reign(1).role_of(2) is None
        learned, primary = rig.copy(0, 1), rig.copy(1, 1)
        assert learned is not None
        assert primary is not None
        assert learned.at == primary.at

    run(story())


def test_one_of_two_backups_is_dropped_when_the_primary_can_do_without(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path, servers=3, replicas=3)
        await rig.training()
        before = rig.reign(0)
        assert [peer.server for peer in before.backups] == [1, 2]
        rig.wires.lose_request[SET_CHANGE] = 1000
        rig.freeze(1)
        await rig.until(lambda: rig.reign(0).doubted == (1,), 0, 2)
        assert rig.reign(0).backups == before.backups, "what only this one has may count already"
        rig.wires.lose_request.clear()
        await rig.until(lambda: rig.reign(0).role_of(1) is None, 0, 2)
        assert rig.reign(0).doubted == ()
        assert rig.services[0].hosted[0].replica.reign == rig.reign(0)

    run(story())


def test_a_server_that_comes_later_takes_what_is_missing(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        rig.kill(1)
        await rig.until(lambda: rig.reign(1).primary.server == 0, 0)
        assert rig.reign(0).backups == ()
        await rig.restart(1, incarnation=77)
        assert rig.services[1].server == 2, "a new process has a new number"
        await rig.until(lambda: all(rig.reign(s).role_of(2) == "backup" for s in (0, 1)), 0, 1)
        status = await rig.status()
        shown = [(each.server, each.state) for each in status.servers]
        assert shown == [(0, "alive"), (2, "alive")], "it is there once"

    run(story())


def test_a_process_at_the_same_address_proves_the_one_before_it_dead(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        await rig.restart(1, incarnation=77)
        await rig.turns()
        assert rig.reign(1).primary.server == 0
        assert any("another process answers at" in note for note in rig.notes)

    run(story())


def test_a_run_whose_last_copies_are_dead_ends_with_its_reason(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        watching = asyncio.ensure_future(rig.supervisor.run())
        rig.kill(0)
        rig.kill(1)
        rig.supervisor._guardian.suspect([0, 1])
        await watching
        status = await rig.status()
        assert status.phase == "failed"
        assert "is dead: nobody listens at" in status.reason
        assert "there is no checkpoint yet, so the run has to be started anew" in status.reason

    run(story())


def test_silent_copies_are_given_a_minute_before_all_is_lost(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        await rig.pass_time(5, 0, 1)
        rig.freeze(0)
        rig.freeze(1)
        await rig.pass_time(40)
        assert any("the last copies" in note for note in rig.notes)
        rig.thaw(0)
        rig.thaw(1)
        await rig.pass_time(10, 0, 1)
        assert rig.supervisor._lost is None
        assert [rig.reign(shard).primary.server for shard in (0, 1)] == [0, 1]

    run(story())


def test_a_supervisor_that_was_away_buries_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        await rig.pass_time(10, 0, 1)
        rig.clock.seconds += 3600.0
        await rig.turns()
        assert any("away for 3600 s itself" in note for note in rig.notes)
        assert not any(entry.dead for entry in rig.fleet.servers)
        assert rig.supervisor.state.membership.expire(rig.clock.now()) == []
        rig.freeze(1)
        seconds = await rig.until(lambda: rig.reign(1).primary.server == 0, 0)
        assert seconds <= 10

    run(story())


def test_a_set_changes_only_for_who_reigns(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        reign = rig.reign(0)
        term, revision = reign.term, reign.revision
        change = SetChange(0, term, revision, 1, "drop", "it is slow")
        answered = await rig.ask(SET_CHANGE, change)
        assert (answered.revision, answered.backups) == (revision + 1, ())
        assert await rig.ask(SET_CHANGE, change) == answered, "the answer may have been lost"
        with pytest.raises(RefusedError) as refused:
            await rig.ask(SET_CHANGE, SetChange(0, term, revision + 1, 1, "admit", "it is back"))
        assert refused.value.code == "conflict"
        with pytest.raises(RefusedError) as refused:
            await rig.ask(SET_CHANGE, SetChange(0, term + 1, revision, 1, "admit", "it is back"))
        assert refused.value.code == "stale-term"
        await rig.turns()
        assert rig.reign(0).role_of(1) is None, "it has to wait"
        await rig.until(lambda: rig.reign(0).role_of(1) == "backup", 0, 1)

    run(story())


def test_a_start_that_failed_half_way_is_repeated_in_a_higher_term(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        rig.wires.lose_request[messages.SHARD_ASSIGN] = 1
        await rig.training()
        assert rig.supervisor.state.phase == "training"
        assert {rig.reign(shard).term for shard in (0, 1)} == {2}
        for shard in (0, 1):
            for server in (0, 1):
                copy = rig.copy(server, shard)
                assert copy is not None
                assert (copy.term, copy.revision) == (2, rig.reign(shard).revision)

    run(story())


def test_a_leavers_samples_wait_for_the_first_shards_primary(tmp_path: Path) -> None:
    """Whoever it is by then: what was acknowledged is never handed out again."""

    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        plan = rig.supervisor.state.plan
        assert plan is not None
        assert (await rig.claim(0, 1)).state == "range"
        rig.freeze(0)
        leaving = asyncio.ensure_future(rig.ask(messages.LEAVE, messages.Leave(0, 1)))
        await rig.turns()
        assert plan.outstanding(0) == 16
        rig.kill(0)
        rig.supervisor._guardian.suspect([0])
        await rig.turns()
        await leaving
        assert plan.outstanding(0) == 0
        assert rig.reign(0).primary.server == 1

    run(story())


def test_progress_counts_as_soon_as_a_new_primary_tells_of_it(tmp_path: Path) -> None:
    """It takes a heartbeat's answer for the word that all in it was heard, and tells it only once.

    Workers do not hear of it before it has said that it knows of its reign.
    """

    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        await rig.push(samples=8)
        rig.kill(0)
        rig.wires.late[REPLICA_REIGN] = asyncio.Event()
        rig.supervisor._guardian.suspect([0])
        for _ in range(200):
            rig.supervisor._guardian.look(rig.clock.now())
            await asyncio.sleep(0)
        copy, published = rig.copy(1, 0), rig.fleet.primary(0)
        assert copy is not None
        assert published is not None
        assert (copy.role, published.server) == ("primary", 0)
        await rig.beat(1)
        rig.wires.late.pop(REPLICA_REIGN).set()
        await rig.pass_time(1, 1)
        progress = rig.fleet.progress.of(0, 1)
        assert progress is not None
        assert progress.samples == 8

    run(story())


def test_a_dead_workers_successor_comes_in_once_its_samples_are_settled(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        assert (await rig.claim(0, 1)).state == "range"
        rig.clock.seconds += 2.0
        rig.freeze(0)
        leaving = asyncio.ensure_future(rig.ask(messages.LEAVE, messages.Leave(0, 1)))
        joining = asyncio.ensure_future(rig.join("a", 11))
        await rig.turns()
        assert not joining.done()
        rig.thaw(0)
        reply = await joining
        await leaving
        plan = rig.supervisor.state.plan
        assert plan is not None
        assert (reply.worker, plan.outstanding(0)) == (0, 0)

    run(story())


def test_two_servers_with_one_folder_are_told_apart(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.register(0, store="disk-0")
        rig.services[1] = rig.service()
        with pytest.raises(RefusedError, match="needs a folder of its own") as refused:
            await rig.register(1, store="disk-0")
        assert refused.value.code == "conflict"
        rig.freeze(0)
        with pytest.raises(RefusedError, match="may still be there") as refused:
            await rig.register(1, store="disk-0")
        assert refused.value.code == "not-ready"
        rig.kill(0)
        await rig.register(1, store="disk-0")

    run(story())


def test_a_server_of_another_run_is_turned_away(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        book = await rig.book()
        rig.supervise(book)
        with pytest.raises(RefusedError, match="holds logs of another run than run") as refused:
            await rig.register(0, run="another")
        assert refused.value.code == "conflict"
        await rig.register(0, run=book.identity)
        await book.close()

    run(story())
