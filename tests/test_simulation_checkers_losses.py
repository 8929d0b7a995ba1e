"""What was acknowledged, and what of it the journal has to call lost, as a checker sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from checker_rig import ShardRig

from psedge.protocol.shards import ShardState
from psedge.protocol.wire import Header, Kind, Status
from psedge.simulation.checkers.exactly_once import ExactlyOnce
from psedge.worker.client import ExchangeResult


def started(rig: ShardRig, book: str, *states: ShardState) -> None:
    """A supervisor begins, with this book. states: of its checkpoint; none: it has none."""
    kept = SimpleNamespace(meta=SimpleNamespace(shard_states=states))
    setup = SimpleNamespace(checkpoint=kept if states else None)
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


def test_another_run_does_not_report_what_the_one_before_has_lost() -> None:
    rig = ShardRig()
    started(rig, "book 1")
    backup = rig.copied("server-1")
    rig.push(0)
    rig.crash()
    rig.reigning("server-1", backup)
    started(rig, "book 2")
    rig.end("finished")
    assert rig.found(1) == []


def heard(rig: ShardRig, worker: int, sequence: int) -> None:
    """A worker takes this push for applied."""
    header = Header(Kind.REPLY, 0, worker, 1, sequence=sequence)
    push: Any = SimpleNamespace(pieces=[SimpleNamespace(header=header)])
    session: Any = None
    checker = next(one for one in rig.watch._checkers if isinstance(one, ExactlyOnce))
    checker.worker_sent("pi", session, push, ExchangeResult((Status.APPLIED,), 0, 0, sequence))


def test_a_late_answer_of_a_former_primary_takes_nothing_back() -> None:
    """It was frozen with an answer that its backup has given since, and a later one too."""
    rig = ShardRig()
    old, backup = rig.replica, rig.copied("server-1")
    first = rig.next_push(0)
    outcome = rig.take(first, old)
    rig.forward("server-1", backup)
    rig.replica = rig.reigning("server-1", backup)
    rig.push(0)
    rig.answer(first, outcome, old)
    heard(rig, 0, 2)
    assert rig.found(1) == []
    heard(rig, 0, 3)
    assert rig.found(1) == [
        "1 pi: push 3 of worker 0 to shard 0 counts as done, and nobody has acknowledged it"
    ]
