"""A supervisor that is started anew in the middle of a run, and takes it over as it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from guardian_rig import GuardedRig
from restart_rig import Life, forget
from supervisor_rig import run

from psedge.first_server import found_checkpoint
from psedge.protocol import messages
from psedge.protocol.errors import ConfigError
from psedge.supervisor.checkpoint import CheckpointStore
from psedge.supervisor.store import ConflictError, LeftAloneError


def test_a_restarted_supervisor_finds_everybody_where_they_were(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        first = await rig.claim(0, 1, number=1)
        beat = messages.Heartbeat(0, 1, steps=3, samples=12)
        await rig.ask(messages.HEARTBEAT, beat)
        before = await rig.status()
        await rig.reborn()
        status = await rig.status()
        assert (status.phase, status.samples_total) == ("training", 64)
        assert status.waiting_for == "the servers of the run: 0 of 2 there"
        assert [(w.name, w.state) for w in status.workers] == [("a", "alive"), ("b", "alive")]
        # Workers go on at once: heartbeats count, a lost answer is repeated, more data is there.
        assert (await rig.ask(messages.HEARTBEAT, beat)).command == "continue"
        assert await rig.claim(0, 1, number=1) == first
        second = await rig.claim(0, 1, number=2)
        assert (second.state, second.start) == ("range", first.stop)
        await rig.servers_come_back()
        status = await rig.wait_for(lambda _: not rig.supervisor.state.attaching)
        assert [(s.shard, s.term, s.primary) for s in status.shards] == [
            (s.shard, s.term, s.primary) for s in before.shards
        ]
        assert rig.services[0].hosted[0].shard.version == 0
        assert status.notes == ("the supervisor is back: all servers of the run are there",)
        assert [event.decision for event in status.journal][-1:] == ["attach"]
        rig.die()

    run(story())


def test_only_some_of_the_servers_are_there(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        await rig.reborn()
        reply = await rig.ask(messages.SERVER_HEARTBEAT, rig.services[0].report())
        assert reply.command == "register"
        await rig.register(0)
        await rig.beat(0)
        status = await rig.status()
        assert status.waiting_for == "the servers of the run: 1 of 2 there"
        rig.die()

    run(story())


def test_who_is_missing_when_the_shards_are_there_is_said(tmp_path: Path) -> None:
    """One server of two is dead, and the other has all shards."""

    async def story() -> None:
        rig = GuardedRig(tmp_path)
        book = await rig.book()
        rig.supervise(book)
        await rig.training()
        rig.kill(1)
        await rig.until(lambda: rig.reign(1).primary.server == 0, 0)
        await book.close()
        book = await rig.book()
        rig.supervise(book)
        await rig.attached(0)
        status = await rig.status()
        said = "the supervisor is back: all shards are there, 1 of 2 servers so far"
        assert said in status.notes
        await book.close()

    run(story())


def test_a_run_without_workers_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        assert (await rig.status()).waiting_for == ""
        for worker in (0, 1):
            await rig.ask(messages.LEAVE, messages.Leave(worker, 1 + worker))
        assert (await rig.status()).waiting_for == "a worker"
        rig.die()

    run(story())


def test_a_worker_that_joins_meanwhile_gets_the_next_number(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        await rig.reborn()
        joining = asyncio.ensure_future(rig.join("c", 5))
        await rig.servers_come_back()
        reply = await joining
        assert (reply.worker, reply.name) == (2, "c")
        await rig.reborn()
        again = await rig.join("c", 5)
        assert again.worker == 2, "it had joined: this is a retry after a lost reply"
        rig.die()

    run(story())


def test_samples_of_a_worker_that_left_are_settled_by_the_next_supervisor(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        for number in (1, 2):
            await rig.claim(0, 1, number=number)
            await rig.claim(1, 2, number=number)
        # The goodbye is stored, and the supervisor dies before the servers have confirmed it.
        state = rig.supervisor.state
        state.membership.leave(0, 1)
        await state.save_members()
        await rig.reborn()
        await asyncio.sleep(0.05)
        reply = await rig.claim(1, 2, number=3)
        assert reply.state == "wait", "nobody knows yet how far the leaver came"
        await rig.servers_come_back()
        await rig.wait_for(lambda _: not rig.supervisor.state.attaching)
        reply = await rig.claim(1, 2, number=3)
        assert (reply.state, reply.start, reply.stop) == ("range", 0, 16)
        rig.die()

    run(story())


def test_claims_over_restarts_hand_out_each_sample_once(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        handed: list[tuple[int, int]] = []
        for number in (1, 2):
            for worker in (0, 1):
                reply = await rig.claim(worker, 1 + worker, number=number)
                handed.append((reply.start, reply.stop))
                await rig.reborn()
                # Its answer may have been lost with the supervisor.
                again = await rig.claim(worker, 1 + worker, number=number)
                assert (again.start, again.stop) == handed[-1]
        assert sorted(handed) == [(0, 16), (16, 32), (32, 48), (48, 64)]
        assert (await rig.claim(0, 1, number=3)).state == "wait"
        assert (await rig.claim(0, 1, number=7)).state == "rejoin"
        rig.die()

    run(story())


def test_an_older_supervisor_that_wakes_up_ends_and_leaves_the_run_alone(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        old, old_watching = rig.supervisor, rig.watching
        assert old_watching is not None
        rig.watching = None
        await rig.reborn()
        rig.clock.seconds += 1
        with pytest.raises(ConflictError, match="another supervisor has taken over this run"):
            await old_watching
        assert old.state.phase == "training"
        assert not (tmp_path / "result.json").exists()
        rig.die()

    run(story())


def test_a_stop_before_the_servers_are_there_leaves_them_alone(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path, lease_seconds=60.0)
        await rig.begin()
        await rig.reborn()
        assert rig.watching is not None
        await rig.ask(messages.STOP, messages.Stop("stopped by Ctrl-C"))
        while not rig.watching.done():
            rig.clock.seconds += 0.5
            await asyncio.sleep(0.01)
        with pytest.raises(LeftAloneError, match="Ctrl-C while it waited for the servers of the"):
            await rig.watching
        assert not (tmp_path / "result.json").exists()
        await rig.reborn()
        await rig.servers_come_back()
        await rig.wait_for(lambda _: not rig.supervisor.state.attaching)
        rig.die()

    run(story())


def test_a_run_that_has_ended_goes_by_its_checkpoint(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        await rig.end()
        terms = [shard.term for shard in (await rig.status()).shards]
        await rig.reborn()
        status = await rig.status()
        assert (status.phase, status.waiting_for) == ("waiting", "2 more servers")
        assert status.journal[-1].decision == "stopped"
        assert rig.supervisor.state.fleet.table.next_term(0) > terms[0]
        rig.die()

    run(story())


def test_terms_rise_though_the_book_is_lost(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        checkpoint = await rig.checkpoint()
        terms = [shard.term for shard in (await rig.status()).shards]
        rig.die()
        forget(tmp_path)
        await rig.reborn(checkpoint=checkpoint)
        table = rig.supervisor.state.fleet.table
        # More than the one that a server may have heard of since.
        assert [table.next_term(shard) > term + 1 for shard, term in enumerate(terms)] == [True] * 2
        rig.die()

    run(story())


def test_without_a_checkpoint_lost_servers_end_the_run(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        for url in list(rig.network.routes):
            if "10.0.0" in url:
                del rig.network.routes[url]
        await rig.reborn()
        status = await rig.wait_for(lambda status: status.phase == "failed")
        assert "there is no checkpoint yet" in status.reason

    run(story())


def test_the_user_does_not_want_to_wait_for_servers(tmp_path: Path) -> None:
    """--from-checkpoint: also with all of them there, which begin again in higher terms."""

    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        checkpoint = await rig.checkpoint()
        terms = [shard.term for shard in (await rig.status()).shards]
        store = CheckpointStore(rig.disk, 2, pytest.fail)
        book = rig.supervisor.state.book
        found = await found_checkpoint(
            store, book, tmp_path, rig.notes.append, from_checkpoint=True
        )
        assert found is not None
        await rig.reborn(checkpoint=checkpoint, from_checkpoint=True)
        status = await rig.wait_for(lambda status: status.phase == "waiting")
        words = "as --from-checkpoint asks; training goes back to the checkpoint at 0 samples: what"
        assert any(words in note and "is lost" in note for note in status.notes)
        event = next(event for event in status.journal if event.decision == "go back")
        assert words in event.reason
        assert (await rig.claim(0, 1, number=1)).state == "rejoin"
        await rig.servers_come_back()
        with pytest.raises(Exception, match="1 more of 2 workers"):
            await rig.join("a", 11)
        await rig.join("b", 12)
        status = await rig.wait_for(lambda status: status.phase == "training")
        assert all(shard.term > term for shard, term in zip(status.shards, terms, strict=True))
        rig.die()

    run(story())


def test_who_waits_for_servers_is_told_the_way_out(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path, lease_seconds=600.0)
        await rig.begin()
        await rig.reborn()
        words = "2 there; --resume --from-checkpoint goes on without what they hold"
        await rig.wait_for(lambda status: any(words in note for note in status.notes))
        rig.die()

    run(story())


def test_there_is_no_checkpoint_to_give_the_servers_up_for(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        store = CheckpointStore(rig.disk, 2, pytest.fail)
        book = rig.supervisor.state.book
        with pytest.raises(ConfigError, match="holds no checkpoint to go back to"):
            await found_checkpoint(store, book, tmp_path, rig.notes.append, from_checkpoint=True)
        rig.die()

    run(story())
