"""What was decided outlives the supervisor, and what was logged outlives the servers."""

from __future__ import annotations

from pathlib import Path

from guardian_rig import GuardedRig, logged
from supervisor_rig import run

from psedge.supervisor.shard_view import OTHER_FOLDER_SECONDS, Sealing


def test_every_reign_is_in_the_book_before_a_server_hears_of_it(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        book = await rig.book()
        rig.supervise(book)
        stored: list[int] = []
        save = book.save_shards

        async def watched(table, servers) -> None:  # type: ignore[no-untyped-def]
            await save(table, servers)
            stored.append(max((reign.revision for reign in table.reigns), default=-1))
            heard = [
                state.revision for service in rig.services for state in service.report().replicas
            ]
            assert max(heard, default=-1) <= stored[-1]

        book.save_shards = watched  # type: ignore[method-assign]
        await rig.training()
        rig.kill(1)
        await rig.shards((await rig.shards(-1)).revision, 1)
        assert rig.reign(1).primary.server == 0
        assert stored[-1] >= 1
        await book.close()

    run(story())


def test_a_supervisor_that_was_started_anew_goes_on(tmp_path: Path) -> None:
    """Same numbers, same terms; who died meanwhile is replaced."""

    async def story() -> None:
        rig = GuardedRig(tmp_path)
        book = await rig.book()
        rig.supervise(book)
        await rig.training()
        await rig.pass_time(3, 0, 1)
        revision = rig.fleet.map_revision
        await book.close()
        book = await rig.book()
        rig.clock.seconds = 5.0
        rig.supervise(book)
        assert rig.fleet.map_revision == revision
        assert not any(entry.attached for entry in rig.fleet.servers)
        rig.kill(1)
        await rig.pass_time(1, 0)
        await rig.pass_time(1, 0)
        assert [entry.attached for entry in rig.fleet.servers] == [True, False]
        assert [rig.reign(shard).primary.server for shard in (0, 1)] == [0, 0]
        assert rig.reign(1).term == 2
        assert rig.fleet.map_revision > revision
        await book.close()

    run(story())


def test_a_fail_over_that_an_earlier_supervisor_began_is_finished(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        book = await rig.book()
        rig.supervise(book)
        await rig.training()
        await rig.fleet.decrees.reserve(1)
        await book.close()
        book = await rig.book()
        rig.supervise(book)
        await rig.pass_time(2, 0, 1)
        reign = rig.reign(1)
        assert reign.term == 3, "copies may have promised the second"
        copy = rig.copy(reign.primary.server, 1)
        assert copy is not None
        assert (copy.role, copy.term) == ("primary", 3)
        await book.close()

    run(story())


def test_logs_that_come_back_from_disk_go_on_where_they_ended(tmp_path: Path) -> None:
    """A power cut of all servers: the copy with the longest log becomes the primary."""

    async def story() -> None:
        rig = GuardedRig(tmp_path, sections={"durability": {"log": "always"}})
        book = await rig.book()
        rig.supervise(book)
        for server in (0, 1):
            await rig.open_disk(server, book.identity)
        await rig.training()
        ends = [rig.copy(shard, shard) for shard in (0, 1)]
        for server in (0, 1):
            rig.kill(server)
            await rig.services[server].close()
        await rig.pass_time(5)
        why = "no copy is there until the log of server 0 or 1 is back"
        await rig.pass_time(30)
        for shard in (0, 1):
            told = [note for note in rig.notes if note.startswith(f"shard {shard}: wait (")]
            assert [why in note for note in told] == [True], "it is said once"
        status = await rig.status()
        assert status.waiting_for == f"shards 0, 1: {why}"
        assert status.rate_samples_per_second == 0.0
        await rig.restart_with_disk(0, 100, book.identity)
        await rig.pass_time(3, 0)
        assert [rig.reign(shard).term for shard in (0, 1)] == [1, 1], "the other may have more"
        words = [server.state for server in (await rig.status()).servers]
        assert words == ["dead", "dead", "alive"], "it holds the only copies: it is no spare"
        await rig.restart_with_disk(1, 101, book.identity)
        await rig.pass_time(3, 0, 1)
        for shard, end in enumerate(ends):
            reign = rig.reign(shard)
            assert end is not None
            assert reign.primary.server in (2, 3)
            copy = rig.copy(reign.primary.server - 2, shard)
            assert copy is not None
            assert (copy.role, copy.term) == ("primary", reign.term)
            assert copy.at.index > end.at.index, "what was, and the beginning of the term"
            await rig.until(lambda: bool(rig.reign(shard).backups), 0, 1)  # noqa: B023
        assert rig.supervisor.state.waits == {}
        for service in rig.services:
            await service.close()
        await book.close()

    run(story())


async def _closed(rig: GuardedRig) -> None:
    for service in rig.services:
        await service.close()
    book = rig.supervisor.state.book
    assert book is not None
    await book.close()


def test_a_log_whose_server_comes_back_with_another_folder_is_given_up(tmp_path: Path) -> None:
    async def story() -> None:
        rig, identity = await logged(tmp_path)
        await rig.pass_time(OTHER_FOLDER_SECONDS + 5, 0)
        assert rig.notes[-1].endswith("--resume --from-checkpoint to give it up)")
        assert not any("lost" in note for note in rig.notes), "its disk may come back"
        await rig.restart_with_disk(1, 101, identity, "other")
        await rig.pass_time(OTHER_FOLDER_SECONDS - 1, 0, 1)
        assert not any("lost" in note for note in rig.notes), "the folder may be put right"
        assert "server 1 came back with another folder" in (await rig.status()).waiting_for
        await rig.pass_time(2, 0, 1)
        lost = [note for note in rig.notes if "shard 1: lost" in note]
        assert len(lost) == 1
        assert "its log is not back, and shard 1 with it" in lost[0]
        await rig.supervisor._tick()
        status = await rig.status()
        assert status.phase == "failed"
        assert "so the run has to be started anew, or, if the log lies in" in status.reason
        await _closed(rig)
        # The folder was only mistyped: everything is there in its place.
        book = await rig.book()
        rig.supervise(book)
        for server, incarnation in ((0, 200), (1, 201)):
            await rig.restart_with_disk(server, incarnation, identity)
        await rig.attached(0, 1)
        status = await rig.status()
        assert status.phase == "training"
        assert all("brings its log back from disk" in each.reason for each in status.journal[-2:])
        await _closed(rig)

    run(story())


def test_a_log_is_not_given_up_for_time_in_which_the_supervisor_was_away(tmp_path: Path) -> None:
    async def story() -> None:
        rig, identity = await logged(tmp_path)
        await rig.restart_with_disk(1, 101, identity, "other")
        await rig.pass_time(10, 0, 1)
        rig.clock.seconds += 3600.0
        await rig.pass_time(OTHER_FOLDER_SECONDS - 15, 0, 1)
        assert not any("lost" in note for note in rig.notes), "the folder may be put right"
        await rig.pass_time(20, 0, 1)
        assert any("shard 1: lost" in note for note in rig.notes)
        await _closed(rig)

    run(story())


def test_nobody_is_waited_for_any_less_because_the_supervisor_was_away() -> None:
    sealing = Sealing(2, 10.0, without={1: 12.0}, returned_at=13.0)
    sealing.forgive(100.0, 120.0)
    assert (sealing.began_at, sealing.without, sealing.returned_at) == (110.0, {1: 112.0}, 113.0)
    sealing.forgive(100.0, 130.0)
    assert (sealing.began_at, sealing.without, sealing.returned_at) == (130.0, {1: 130.0}, 130.0)


def test_a_server_that_has_its_own_folder_again_goes_on(tmp_path: Path) -> None:
    async def story() -> None:
        rig, identity = await logged(tmp_path)
        await rig.restart_with_disk(1, 101, identity, "other")
        await rig.pass_time(OTHER_FOLDER_SECONDS - 10, 0, 1)
        await rig.services[1].close()
        await rig.restart_with_disk(1, 102, identity)
        await rig.pass_time(OTHER_FOLDER_SECONDS, 0, 1)
        assert rig.reign(1).primary.server == 3
        assert not any("shard 1: lost" in note for note in rig.notes)
        promoted = [note for note in rig.notes if "shard 1: promote" in note]
        assert "at most the last 1 s before a power cut may be lost" in promoted[0]
        await _closed(rig)

    run(story())


def test_a_run_that_fails_names_the_checkpoint_to_continue_from(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path, replicas=1)
        await rig.training()
        await rig.push(samples=16)
        await rig.beat(0)
        keeper, state = rig.supervisor._keeper, rig.supervisor.state
        await keeper._save(state, await keeper._gather(state))
        rig.kill(1)
        await rig.pass_time(5, 0)
        await rig.supervisor._tick()
        status = await rig.status()
        assert status.phase == "failed"
        at = "continue from the checkpoint at 16 samples with --resume"
        assert status.reason.endswith(f"shard 1 with it; {at}")

    run(story())


def test_a_server_is_a_spare_only_where_no_copy_is_missing(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        rig.services += [rig.service(), rig.service()]
        await rig.register(2)
        assert "server 2 at http://10.0.0.2:7700 spare: all shards are taken" in rig.notes
        rig.kill(0)
        rig.kill(2)
        await rig.pass_time(4, 1)
        await rig.register(3)
        assert "server 3 at http://10.0.0.3:7700 joined" in rig.notes

    run(story())


def test_who_gives_the_logs_up_is_not_told_to_give_them_up(tmp_path: Path) -> None:
    async def story() -> None:
        rig, _ = await logged(tmp_path)
        await _closed(rig)
        rig.kill(0)
        rig.notes.clear()
        rig.supervise(await rig.book(), from_checkpoint=True)
        await rig.pass_time(3)
        assert any("server 0: dead" in note for note in rig.notes)
        assert not any("wait" in note for note in rig.notes)
        await _closed(rig)

    run(story())
