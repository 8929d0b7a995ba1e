"""What a person is told who resumes a run: that it is over, or what the config counts for."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import msgspec
import pytest
from restart_rig import Life
from supervisor_rig import run

from psedge.config import Experiment
from psedge.first_server import found_checkpoint
from psedge.protocol.errors import ConfigError
from psedge.supervisor.checkpoint import Checkpoint, CheckpointStore


def lasting(experiment: Experiment, epochs: float) -> Experiment:
    schedule = msgspec.structs.replace(experiment.schedule, length=epochs)
    return msgspec.structs.replace(experiment, schedule=schedule)


async def resumed(rig: Life, experiment: Experiment | None) -> Checkpoint | None:
    store = CheckpointStore(rig.disk, 2, pytest.fail)
    book = rig.supervisor.state.book
    return await found_checkpoint(store, book, rig.folder, rig.notes.append, asked=experiment)


def test_a_run_that_has_finished_is_not_waited_for_anew(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.reborn()
        await rig.finished()
        assert rig.watching is not None
        while not rig.watching.done():
            rig.clock.seconds += 0.1
            await asyncio.sleep(0.005)
        assert (await rig.status()).phase == "finished"
        await rig.reborn()
        experiment = rig.setup.experiment
        with pytest.raises(ConfigError, match=r"has finished, after 0 samples; to train on, ask"):
            await resumed(rig, experiment)
        assert not any("continuing" in note for note in rig.notes)
        assert await resumed(rig, lasting(experiment, 2.0)) is not None
        assert await resumed(rig, None) is not None
        rig.die()

    run(story())


@pytest.mark.parametrize("gives_up", [False, True])
def test_what_a_changed_config_counts_for(tmp_path: Path, *, gives_up: bool) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        for number in (1, 2):
            await rig.claim(0, 1, number=number)
        checkpoint = await rig.checkpoint()
        rig.setup = dataclasses.replace(rig.setup, experiment=lasting(rig.setup.experiment, 0.25))
        await rig.reborn(checkpoint=checkpoint, from_checkpoint=gives_up)
        later = "[schedule] of the config changed: that counts only once training is resumed"
        assert any(later in note for note in rig.notes) is not gives_up
        if gives_up:
            await rig.wait_for(lambda status: status.phase == "waiting")
            await rig.servers_come_back()
            with pytest.raises(Exception, match="1 more of 2 workers"):
                await rig.join("a", 11)
            await rig.join("b", 12)
            status = await rig.wait_for(lambda status: status.phase == "training")
            assert (
                "[schedule] ends after 16 samples, and more had been handed out before: the "
                in (" ".join(status.notes))
            )
        rig.die()

    run(story())


def test_a_run_that_is_stopped_before_it_goes_on_keeps_its_count(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        found = await rig.checkpoint()
        meta = msgspec.structs.replace(found.meta, samples=48)
        await rig.reborn(checkpoint=dataclasses.replace(found, meta=meta), from_checkpoint=True)
        status = await rig.wait_for(lambda status: status.phase == "waiting")
        assert (status.samples, status.waiting_for) == (48, "2 more servers")
        rig.supervisor.request_stop("stopped by Ctrl-C")
        status = await rig.wait_for(lambda status: status.phase == "stopped")
        assert status.samples == 48
        assert b'"samples_seen": 48' in (tmp_path / "result.json").read_bytes()
        rig.die()

    run(story())
