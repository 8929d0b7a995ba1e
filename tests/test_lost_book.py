"""A run that goes on from its checkpoint says what that costs, and what was lost before."""

from __future__ import annotations

from pathlib import Path

import pytest
from restart_rig import Life, forget
from supervisor_rig import run

from psedge.protocol.errors import RefusedError
from psedge.protocol.status import Event
from psedge.supervisor.checkpoint import Checkpoint
from psedge.supervisor.run_rows import METRICS_FILE

LOST = "at least 3 acknowledged entries are lost"


async def resumed(rig: Life, checkpoint: Checkpoint) -> Event:
    """The run begins again from there; how its journal tells of it."""
    await rig.reborn(checkpoint=checkpoint)
    await rig.servers_come_back()
    with pytest.raises(RefusedError):
        await rig.join("a", 11)
    await rig.join("b", 12)
    return (await rig.status()).journal[-1]


def test_reports_of_losses_outlive_the_book(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        rig.supervisor._decided("shard", "shard 1", "promote server 0", LOST, lost=True)
        checkpoint = await rig.checkpoint()
        rig.die()
        forget(tmp_path)
        event = await resumed(rig, checkpoint)
        assert (event.decision, event.lost) == ("start", True)
        for _ in range(2):
            told = [each for each in (await rig.status()).journal if each.lost]
            assert [each.subject for each in told] == ["shard 1", "the run"]
            assert told[0].reason == LOST
            assert told[0].number < told[1].number
            # The next supervisor has them from the new book.
            await rig.reborn()
        rig.die()

    run(story())


@pytest.mark.parametrize(
    ("recorded", "words"),
    [(24, "; the work of at least 24 samples"), (0, "; whatever was trained")],
)
def test_a_start_without_a_book_says_what_the_checkpoint_lacks(
    tmp_path: Path, recorded: int, words: str
) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        checkpoint = await rig.checkpoint()
        rig.die()
        forget(tmp_path)
        row = f'{{"kind":"progress","samples":{recorded},"seconds":1.0,"epoch":0.5}}\n'
        (tmp_path / METRICS_FILE).write_text(row)
        event = await resumed(rig, checkpoint)
        told = f"training goes on after 0 samples{words} after that is lost"
        assert event.reason == f"servers, model and workers are there; {told}"
        assert told in (await rig.status()).notes
        rig.die()

    run(story())


def test_a_run_that_was_stopped_in_order_loses_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Life(tmp_path)
        await rig.begin()
        await rig.end()
        event = await resumed(rig, await rig.checkpoint())
        words = "servers, model and workers are there; training goes on after 0 samples"
        assert (event.reason, event.lost) == (words, False)
        rig.die()

    run(story())
