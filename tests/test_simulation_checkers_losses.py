"""A training that goes back to its checkpoint says what that costs, or the checker says it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from checker_rig import ShardRig

from psedge.protocol.shards import ShardState


def started(rig: ShardRig, book: str, *states: ShardState) -> None:
    """A supervisor of a run that has a checkpoint begins, with this book."""
    setup = SimpleNamespace(checkpoint=SimpleNamespace(meta=SimpleNamespace(shard_states=states)))
    state: Any = SimpleNamespace(book=SimpleNamespace(identity=book), setup=setup)
    rig.watch.tell("run_started", rig.host, SimpleNamespace(state=state))


@pytest.mark.parametrize("said", [True, False])
def test_a_start_from_a_checkpoint_has_to_say_that_later_pushes_are_lost(*, said: bool) -> None:
    rig = ShardRig()
    saved = rig.checkpoint()
    rig.push(0)
    rig.crash()
    lost = "; the work of at least 1 samples after that is lost" if said else ""
    rig.note("start", f"training goes on after 0 samples{lost}")
    rig.made(rig.host, saved)
    rig.end("stopped")
    found = rig.found(1)
    assert len(found) == (0 if said else 1)
    assert said or "without push 1 of worker 0, which was acknowledged, and the" in found[0]


@pytest.mark.parametrize(("pushes", "said"), [(1, True), (1, False), (0, False)])
def test_a_run_without_its_book_has_to_say_it_too(pushes: int, *, said: bool) -> None:
    rig = ShardRig()
    started(rig, "book 1")
    state, _ = rig.checkpoint()
    for _ in range(pushes):
        rig.push(0)
    rig.crash()
    started(rig, "book 2", state)
    rig.journal.clear()
    rig.note("start", "whatever was trained after that is lost" if said else "they are there")
    rig.end("stopped")
    assert len(rig.found(1)) == (1 if pushes and not said else 0)


@pytest.mark.parametrize("after", [True, False])
def test_a_report_that_went_with_the_book_is_missed_unless_all_of_that_is_undone(
    *, after: bool
) -> None:
    rig = ShardRig()
    started(rig, "book 1")
    backup = rig.copied("server-1")
    state, _ = rig.checkpoint()
    rig.push(0)
    rig.now += 1.0
    rig.crash()
    rig.replica = rig.reigning("server-1", backup)
    if not after:
        rig.host = "server-1"
        rig.now += 1.0
        state, _ = rig.checkpoint()
    started(rig, "book 2", state)
    rig.journal.clear()
    rig.note("start", "whatever was trained after that is lost")
    rig.end("stopped")
    assert len(rig.found(1)) == (0 if after else 1)
