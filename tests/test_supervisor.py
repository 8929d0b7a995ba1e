"""The supervisor's shell: real cores, shards and record, on a network and a clock made of data."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from guardian_rig import GuardedRig
from supervisor_rig import LAYOUT, SETTINGS, Rig, model_state, run
from tiny_cluster import HOME

from psedge.protocol import messages
from psedge.protocol.address import Address
from psedge.protocol.bundle import pack
from psedge.protocol.calls import ask_bytes
from psedge.protocol.errors import RefusedError
from psedge.protocol.messages import Place
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION


def test_another_wire_version_is_refused_naming_both(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        query = messages.ExperimentQuery("9.9", WIRE_VERSION + 1)
        with pytest.raises(RefusedError, match=rf"psedge 9\.9 speaks .*psedge {__version__}"):
            await rig.ask(messages.EXPERIMENT, query)

    run(story())


def test_training_starts_when_servers_and_workers_are_there(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        await rig.register(0)
        query = messages.ExperimentQuery(__version__, WIRE_VERSION)
        experiment = await rig.ask(messages.EXPERIMENT, query)
        assert (experiment.phase, experiment.waiting_for) == ("waiting", "1 more server")
        with pytest.raises(RefusedError, match="1 more server"):
            await rig.join("a", 1)
        await rig.register(1)
        with pytest.raises(RefusedError, match="1 more of 2 workers"):
            await rig.join("a", 1)
        reply = await rig.join("b", 2)
        assert [(shard.start, shard.stop) for shard in reply.shards] == [(0, 4), (4, 10)]
        assert reply.shards[0].url == ""
        assert reply.shards[1].url == "http://10.0.0.1:7700"
        assert (await rig.status()).phase == "training"

    run(story())


@pytest.mark.parametrize(("replicas", "told"), [(1, False), (2, False), (3, True)])
def test_more_copies_than_servers_are_not_taken_in_silence(
    tmp_path: Path, replicas: int, told: bool
) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path, replicas=replicas)
        await rig.training()
        note = (
            "replicas = 3 takes 3 servers: with 2 each part of the model has 2 copies, until "
            "another server joins"
        )
        assert (note in (await rig.status()).notes) == told

    run(story())


def test_a_worker_that_goes_before_training_begins_has_left(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        await rig.register(0, 1)
        with pytest.raises(RefusedError, match="1 more of 2 workers"):
            await rig.join("a", 1)
        for name, incarnation in (("b", 1), ("a", 2), ("a", 1)):
            goodbye = messages.Leave(messages.NO_NUMBER, incarnation, name=name)
            assert [row.state for row in (await rig.status()).workers] == ["alive"]
            await rig.ask(messages.LEAVE, goodbye)
        assert [row.state for row in (await rig.status()).workers] == ["left"]
        with pytest.raises(RefusedError, match="1 more of 2 workers"):
            await rig.join("b", 3)
        await rig.join("a", 4)
        assert (await rig.status()).phase == "training"

    run(story())


def test_it_starts_with_fewer_workers_and_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        await rig.register(0, 1)
        with pytest.raises(RefusedError, match="1 more of 2 workers"):
            await rig.join("a", 1)
        rig.clock.seconds = 5.0
        await rig.join("a", 1)
        assert "training starts with 1 of 2 workers" in (await rig.status()).notes

    run(story())


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"layout_digest": "another"}, "model-differs"), ({"dataset_samples": 63}, "conflict")],
)
def test_a_worker_with_another_model_or_data_set_stays_out(
    tmp_path: Path, fields: dict[str, Any], code: str
) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        await rig.started()
        with pytest.raises(RefusedError) as refused:
            await rig.join("c", 3, **fields)
        assert refused.value.code == code

    run(story())


def test_the_first_worker_says_how_much_data_there_is(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path, train_samples=None, workers=1)
        await rig.register(0, 1)
        reply = await rig.join("a", 1, dataset_samples=40)
        found = await rig.claim(reply.worker)
        assert (found.state, found.start, found.stop) == ("range", 0, 16)
        assert (await rig.status()).samples_total == 40

    run(story())


def test_a_dead_workers_range_goes_to_the_others(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        await rig.started()
        claimed = [await rig.claim(worker, 1 + worker) for worker in (0, 1, 0, 1)]
        assert [(c.start, c.stop) for c in claimed] == [(0, 16), (16, 32), (32, 48), (48, 64)]
        assert (await rig.claim(1, 2)).state == "wait"
        watching = asyncio.ensure_future(rig.supervisor.run())
        rig.clock.seconds = 3.0
        for server in (0, 1):
            await rig.beat(server)
        await rig.claim(1, 2)
        rig.clock.seconds = 5.0
        for server in (0, 1):
            await rig.beat(server)
        again = await rig.claim(1, 2, idle=True)
        assert (again.state, again.start, again.stop) == ("range", 0, 16)
        assert (await rig.claim(0, 1)).state == "rejoin"
        assert any("worker a is silent for 4 s" in note for note in rig.notes)
        watching.cancel()

    run(story())


def test_what_a_worker_held_is_settled_before_the_process_after_it_joins(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        await rig.started()
        first = await rig.join("pi", 5, place=Place("here", 1))
        beside = await rig.join("pi", 6, place=Place("here too", 1))
        assert [reply.name for reply in (first, beside)] == ["pi", "pi-2"]
        held = await rig.claim(first.worker, 5, number=1)
        again = await rig.join("pi", 7, place=Place("here", 2))
        assert (again.name, again.worker) == ("pi", first.worker)
        assert (await rig.claim(first.worker, 5, number=2)).state == "rejoin"
        assert await rig.claim(again.worker, 7, number=1) == held
        other = await rig.claim(beside.worker, 6, number=1)
        assert (other.start, other.stop) == (16, 32)
        rig.supervisor.state.check_invariants()

    run(story())


def test_in_bsp_workers_take_turns_and_hold_as_much_as_elsewhere(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path, train_samples=6400, sections={"sync": {"mode": "bsp"}})
        await rig.started(dataset_samples=6400)
        assert (await rig.claim(0, 1, idle=True, number=1)).reserve == 0
        early = await rig.claim(0, 1, number=2)
        assert (early.state, early.reserve) == ("wait", 1)
        rig.supervisor.state.rate_samples_per_second = 32.0
        for worker in (0, 1):
            beat = messages.Heartbeat(worker, 1 + worker, rate_samples_per_second=16.0)
            await rig.ask(messages.HEARTBEAT, beat)
        first = await rig.claim(1, 2, idle=True, number=1)
        assert (first.start, first.stop, first.reserve) == (16, 32, 20 * 16 - 16)
        second = await rig.claim(1, 2, number=2)
        assert (second.start, second.stop) == (32, 48)
        early = await rig.claim(1, 2, number=3)
        assert (early.state, early.reserve) == ("wait", 304)
        # It is told again what it got, although it is not its turn.
        assert await rig.claim(1, 2, number=2) == second
        third = await rig.claim(0, 1, number=2)
        assert (third.start, third.stop) == (48, 64)

    run(story())


def test_a_lost_server_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        await rig.started()
        watching = asyncio.ensure_future(rig.supervisor.run())
        del rig.network.routes["http://10.0.0.1:7700"]
        # It may come back, and nobody else has what it holds: for a minute it is waited for.
        for _ in range(31):
            assert (await rig.status()).phase == "training"
            rig.clock.seconds += 2.0
            await rig.beat(0)
            rig.supervisor._guardian.look(rig.clock.now())
            await asyncio.sleep(0)
        await watching
        status = await rig.status()
        assert status.phase == "failed"
        assert "server 1 at http://10.0.0.1:7700 is silent for 62 s, and shard 1" in status.reason
        result = json.loads((rig.folder / "result.json").read_text())
        assert result["phase"] == "failed"

    run(story())


def test_a_stop_is_carried_to_everyone_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        await rig.started()
        watching = asyncio.ensure_future(rig.supervisor.run())
        await rig.ask(messages.STOP, messages.Stop("enough"))
        assert (await rig.claim(0)).state == "stop"
        beat = await rig.ask(messages.HEARTBEAT, messages.Heartbeat(1, 2))
        assert beat.command == "stop"
        for worker in (0, 1):
            await rig.ask(messages.LEAVE, messages.Leave(worker, 1 + worker))
        await watching
        status = await rig.status()
        assert (status.phase, status.reason) == ("stopped", "enough")
        assert (rig.folder / "checkpoints" / "000000000000" / "checkpoint.json").exists()
        with pytest.raises(RefusedError) as refused:
            await rig.join("late", 9)
        assert refused.value.code == "stopped"

    run(story())


def test_a_model_is_brought_once(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        define = messages.Define(__version__, WIRE_VERSION, LAYOUT, SETTINGS, (0,))
        body = pack(define, model_state().arrays())
        with pytest.raises(RefusedError) as refused:
            await ask_bytes(
                rig.network,
                Address(HOME.url),
                messages.DEFINE,
                (body,),
                limit_bytes=1000,
                timeout_seconds=1.0,
            )
        assert refused.value.code == "conflict"

    run(story())


def test_a_server_is_not_taken_for_another_of_its_number(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        await rig.register(0, 1)
        service = rig.services[1]
        service.server, service.incarnation = 1, 99
        reply = await rig.ask(messages.SERVER_HEARTBEAT, service.report())
        assert reply.command == "register", "it knew an earlier supervisor of this run"

    run(story())


def test_a_model_is_refused_before_it_is_read(tmp_path: Path) -> None:
    class Endless:
        path, peer, token, length = messages.DEFINE, "", "", 2**40

        async def read_into(self, buffer: memoryview) -> None:
            raise AssertionError("nobody needs a byte of it")

    async def story() -> None:
        define = Rig(tmp_path).supervisor.routes()[messages.DEFINE]
        with pytest.raises(RefusedError, match="has its model already"):
            await define(Endless())

    run(story())
