"""How a run ends: finished, stopped or failed, and never without a word about its model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from supervisor_rig import Rig, run
from tiny_cluster import until

from psedge.protocol import messages
from psedge.protocol.errors import DataError, RefusedError
from psedge.protocol.status import Evaluation
from psedge.supervisor.model_state import ModelState


def result_of(rig: Rig) -> dict[str, Any]:
    return json.loads((rig.folder / "result.json").read_text())  # type: ignore[no-any-return]


def test_a_run_that_its_starter_gives_up_has_failed(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        await rig.started()
        for worker in (0, 1):
            await rig.ask(messages.LEAVE, messages.Leave(worker, 1 + worker, "NaN"))
        await rig.ask(messages.STOP, messages.Stop("worker-1: NaN", failed=True))
        await rig.supervisor.run()
        assert result_of(rig)["phase"] == "failed"
        assert result_of(rig)["reason"] == "worker-1: NaN"
        assert (rig.folder / "checkpoints" / "000000000000" / "checkpoint.json").exists()

    run(story())


def test_a_run_that_is_stopped_before_it_begins_waits_for_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        await rig.register(0, 1)
        for name, incarnation in (("a", 1), ("a", 1)):
            with pytest.raises(RefusedError, match="1 more of 2 workers"):
                await rig.join(name, incarnation)
        before = rig.clock.now()
        rig.supervisor.request_stop("stopped by SIGTERM")
        await rig.supervisor.run()
        assert rig.clock.now() - before < 2.0
        assert rig.supervisor.state.membership.live_count == 1
        with pytest.raises(RefusedError, match="has ended"):
            await rig.join("a", 1)
        assert [row.state for row in (await rig.status()).workers] == ["left"]

    run(story())


def test_a_trained_model_waits_for_room_on_the_disk(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        await rig.finished()
        rig.disk.full = True
        watching = asyncio.ensure_future(rig.supervisor.run())
        await until(lambda: rig.clock.now() > 30)
        assert sum("cannot write a checkpoint: the disk is full" in note for note in rig.notes) == 1
        assert sum(f"make room for it in {tmp_path}" in note for note in rig.notes) == 1
        assert not rig.supervisor.state.ended
        rig.disk.full = False
        await watching
        assert result_of(rig)["phase"] == "finished"
        assert (rig.folder / "checkpoints" / "000000000000" / "checkpoint.json").exists()

    run(story())


@pytest.mark.parametrize("asked_to_stop", [True, False])
def test_a_model_that_never_gets_room_is_a_failure(tmp_path: Path, asked_to_stop: bool) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        await rig.finished()
        rig.disk.full = True
        watching = asyncio.ensure_future(rig.supervisor.run())
        await until(lambda: any("make room" in note for note in rig.notes))
        if asked_to_stop:
            rig.supervisor.request_stop("stopped by Ctrl-C")
        await watching
        assert (rig.clock.now() >= 600) != asked_to_stop
        result = result_of(rig)
        assert result["phase"] == "failed"
        assert result["reason"] == "the last checkpoint could not be written: the disk is full"

    run(story())


def test_a_stop_does_not_wait_for_room(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path)
        await rig.finished()
        rig.disk.full = True
        rig.supervisor.request_stop("stopped by Ctrl-C")
        await rig.supervisor.run()
        result = result_of(rig)
        assert result["phase"] == "stopped"
        assert result["reason"].startswith("stopped by Ctrl-C; the last checkpoint could not be")

    run(story())


@pytest.mark.parametrize("error", [DataError("a label is 9"), ZeroDivisionError("by zero")])
def test_a_measurement_that_fails_costs_no_training(tmp_path: Path, error: Exception) -> None:
    async def broken(model: ModelState) -> Evaluation:
        raise error

    async def story() -> None:
        rig = Rig(tmp_path, evaluator=broken)
        await rig.finished()
        await rig.supervisor.run()
        assert result_of(rig)["phase"] == "finished"
        assert result_of(rig)["test_accuracy"] is None
        notes = [note for note in rig.notes if "could not be measured" in note]
        assert len(notes) == 1
        assert str(error) in notes[0]

    run(story())


async def all_visited(rig: Rig) -> None:
    """The first shard has every sample; nobody knows whether the others have the last pushes."""
    await rig.started()
    plan = rig.supervisor.state.plan
    assert plan is not None
    for worker in (0, 1):
        while (await rig.claim(worker, 1 + worker)).state == "range":
            pass
        plan.consumed(worker, 64, 1 + worker)
    assert plan.finished


async def seconds_pass(rig: Rig, seconds: int) -> None:
    """Both workers are heard in each of them."""
    for _ in range(seconds):
        rig.clock.seconds += 1.0
        for worker in (0, 1):
            await rig.ask(messages.HEARTBEAT, messages.Heartbeat(worker, 1 + worker))
        await rig.supervisor._tick()


def test_the_end_waits_for_pushes_that_only_some_shards_have(tmp_path: Path) -> None:
    """A worker that cannot reach one of the servers is there all the same: its lease goes on."""

    async def story() -> None:
        rig = Rig(tmp_path, lease_seconds=4.0)
        await all_visited(rig)
        await seconds_pass(rig, 30)
        assert not rig.supervisor.state.ended
        for worker in (0, 1):
            assert (await rig.claim(worker, 1 + worker, idle=True)).state == "done"
        await rig.supervisor._tick()
        assert result_of(rig)["phase"] == "finished"
        assert not any("without the last push" in note for note in rig.notes)

    run(story())


def test_the_end_waits_for_a_push_that_never_gets_through_for_a_bounded_time(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        rig = Rig(tmp_path, lease_seconds=4.0)
        await all_visited(rig)
        assert (await rig.claim(0, 1, idle=True)).state == "done"
        await seconds_pass(rig, 60)
        assert not rig.supervisor.state.ended
        await seconds_pass(rig, 1)
        assert result_of(rig)["phase"] == "finished"
        assert [note for note in rig.notes if "without the last push of b to" in note]

    run(story())
