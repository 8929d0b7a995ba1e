"""A virtual cluster loses servers and its supervisor: training goes on, and nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
from test_simulation_world import SAMPLES, order_of

from psedge.simulation.faults.kinds import (
    Crash,
    DiskRot,
    Fault,
    Freeze,
    Partition,
    PowerCut,
    Reset,
)
from psedge.simulation.outcome import Outcome
from psedge.simulation.run import simulate
from psedge.simulation.watch import WatchedService
from psedge.simulation.work import ProblemWork

EPOCHS = 4


def run(*faults: Fault, sections: dict[str, Any] | None = None, **cluster: Any) -> Outcome:
    order = order_of(*faults, sections=sections, **cluster)
    return simulate(order, work=ProblemWork(order.experiment, samples=SAMPLES))


def texts(outcome: Outcome, kind: str) -> list[str]:
    return [event.text for event in outcome.events if event.kind == kind]


def check(outcome: Outcome) -> None:
    """It came to its end, without anything being done twice or gone back to."""
    assert (outcome.phase, outcome.violations) == ("finished", ())
    assert outcome.result is not None
    assert outcome.result.samples_applied == EPOCHS * SAMPLES
    assert outcome.result.resumed_from_samples is None
    assert texts(outcome, "operator") == []


@pytest.mark.parametrize("acks", ["replica", "all"])
def test_the_loss_of_a_primary_costs_less_than_two_seconds(acks: str) -> None:
    outcome = run(
        Crash(on="primary-1", at=10.0, restart_after=5.0), sections={"replication": {"acks": acks}}
    )
    check(outcome)
    assert texts(outcome, "role") == ["server-1"]
    (recovery,) = outcome.recoveries
    assert recovery.what == "training"
    assert recovery.seconds is not None
    assert recovery.seconds < 2.0


def test_a_primary_that_stands_still_is_replaced_and_comes_back_as_a_backup() -> None:
    outcome = run(Freeze(on="primary-0", at=10.0, seconds=12.0), supervisor_apart=True)
    check(outcome)
    promoted = texts(outcome, "replica")
    assert len(promoted) == 1
    assert "shard 0 promoted in term 2" in promoted[0]
    admitted = [text for text in texts(outcome, "note") if "shard 0: admit" in text]
    assert len(admitted) == 1


def test_a_primary_that_is_cut_off_from_all_but_the_workers_is_fenced() -> None:
    others = ("supervisor", "server-1", "server-2")
    outcome = run(
        Partition(between=("server-0", others), at=8.0, seconds=14.0),
        servers=3,
        supervisor_apart=True,
        sections={"replication": {"replicas": 3}},
    )
    check(outcome)


def test_nobody_notices_that_the_supervisor_is_away() -> None:
    outcome = run(Crash(on="supervisor", at=8.0, restart_after=4.0), supervisor_apart=True)
    check(outcome)
    (recovery,) = outcome.recoveries
    assert recovery.seconds is not None
    assert recovery.seconds < 1.0
    notes = texts(outcome, "note")
    assert any("the supervisor is back" in text for text in notes)
    assert not any("taken for dead" in text for text in notes)


def test_all_servers_come_back_from_a_power_cut_with_their_logs() -> None:
    outcome = run(
        PowerCut(on=("supervisor", "servers"), at=10.0, restart_after=3.0),
        supervisor_apart=True,
        sections={"durability": {"log": "always"}},
    )
    check(outcome)
    recovered = [text for text in texts(outcome, "replica") if "recovered" in text]
    assert len(recovered) == 4, "two shards on two servers"


def test_without_logs_they_go_back_to_the_checkpoint_and_say_so() -> None:
    outcome = run(
        PowerCut(on=("supervisor", "servers"), at=14.0, restart_after=3.0), supervisor_apart=True
    )
    assert (outcome.phase, outcome.violations) == ("finished", ())
    assert any("goes back to the checkpoint" in text for text in texts(outcome, "note"))


def test_a_log_that_rots_costs_no_more_than_a_copy() -> None:
    outcome = run(
        DiskRot(on="server-1", path="segment", at=9.0),
        PowerCut(on="server-1", at=10.0, restart_after=2.0),
        sections={"durability": {"log": "always"}},
    )
    check(outcome)


def test_a_start_that_fails_half_way_leaves_no_second_primary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shards are handed out again, and who holds a copy from before takes no pushes into it."""
    seen: list[tuple[int, str, int]] = []
    changed = WatchedService.replica_changed

    def noted(self: WatchedService, replica: Any, what: str) -> None:
        seen.append((replica.shard.assignment.shard, what, replica.term))
        changed(self, replica, what)

    monkeypatch.setattr(WatchedService, "replica_changed", noted)
    outcome = run(
        Freeze(on="server-1", at=0.05, seconds=7.0),
        Crash(on="server-2", at=0.9, restart_after=1.2),
        Reset(on="server-1", at=2.0),
        servers=3,
        supervisor_apart=True,
    )
    assert (outcome.phase, outcome.violations) == ("finished", ())
    assert any(what == "assigned" and term > 1 for _, what, term in seen)
