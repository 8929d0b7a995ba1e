"""Checkers of what servers do: silent on whatever shards may meet, and loud on planted bugs."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from checker_rig import ShardRig

from psedge.protocol.errors import PsedgeError
from psedge.protocol.shards import Member
from psedge.protocol.wire import Status
from psedge.server.consistency import Gate
from psedge.server.ledger import Ledger
from psedge.server.shard import Shard
from psedge.server.update_rule import UpdateRule
from psedge.supervisor.membership import Membership

NAN = float("nan")


def moved(rig: ShardRig, chance: random.Random) -> None:
    """One thing that happens to a shard in the life of a cluster."""
    worker = chance.randrange(5)
    what = chance.choice(["push"] * 8 + ["nan", "old", "retry", "odd", "join", "leave", "idle"])
    present = worker in rig.members
    if what in ("push", "nan", "old") and present and rig.shard.may_proceed(worker):
        gradient = (NAN, 1.0) if what == "nan" else (chance.gauss(0, 1), 1.0)
        version = 0 if what == "old" else rig.shard.version
        rig.push(worker, *gradient, version=version, samples=chance.randint(1, 9))
        if rig.shard.may_proceed(worker):
            rig.watch.tell(
                "gate_passed", rig.host, rig.shard, worker, rig.members[worker].incarnation
            )
    elif what == "retry" and present:
        key = (worker, rig.members[worker].incarnation)
        if rig.sequences.get(key):
            rig.sequences[key] -= 1
            rig.push(worker)
    elif what == "odd" and present:
        with pytest.raises(PsedgeError):
            rig.take(rig.next_push(worker, buffers=np.zeros(9, np.float32)))
        rig.sequences[worker, rig.members[worker].incarnation] -= 1
    elif what == "join":
        rig.members[worker] = Member(worker, 1 + chance.randrange(10**6))
        rig.tell()
    elif what == "leave" and present:
        del rig.members[worker]
        rig.tell()
    elif what == "idle" and present:
        member = rig.members[worker]
        rig.members[worker] = Member(worker, member.incarnation, not member.idle)
        rig.tell()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("mode", ["bsp", "ssp", "asp"])
def test_nothing_is_found_where_nothing_is_wrong(mode: str, seed: int) -> None:
    chance = random.Random(seed)
    lag: dict[str, Any] = {"lag_bound": 2, "lag_action": "refuse"} if seed % 2 else {}
    rig = ShardRig(mode, staleness_bound=seed % 4, **lag)
    for turn in range(4):
        for _ in range(60):
            moved(rig, chance)
        saved = rig.checkpoint()
        for _ in range(chance.randrange(9)):
            moved(rig, chance)
        rig.crash()
        rig.note("start", "training goes on after 60 samples; later work is lost")
        rig.replica = rig.made(rig.host, saved)
        rig.members = {worker: Member(worker, seed + (turn + 1) * 10**7) for worker in rig.members}
        rig.sequences.clear()
        rig.revision += 1
        rig.tell()
    rig.checkpoint()
    rig.end("finished")
    assert rig.found() == []


def test_a_push_that_is_applied_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = ShardRig()
    push = rig.next_push(0)
    rig.take(push)
    rig.take(push)
    assert rig.found() == []
    monkeypatch.setattr(Ledger, "is_duplicate", lambda *_: False)
    monkeypatch.setattr(Ledger, "require_next", lambda *_: None)
    rig.take(push)
    assert "applied a second time" in rig.found(1)[0]


def test_a_push_that_is_taken_for_a_retry_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = ShardRig()
    monkeypatch.setattr(Ledger, "is_duplicate", lambda *_: True)
    monkeypatch.setattr(Ledger, "status_of_retry", lambda *_: Status.DUPLICATE)
    rig.push(0)
    assert "had never arrived" in rig.found(1)[0]


@pytest.mark.parametrize("mode", ["asp", "bsp"])
def test_a_push_that_is_acknowledged_and_not_applied_is_found(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = ShardRig(mode)
    monkeypatch.setattr(Shard, "_apply", lambda *_: None)
    monkeypatch.setattr("psedge.server.aggregation.Round.take", lambda self: self._start())
    rig.push(0)
    rig.push(1)
    assert rig.found(1)


def test_a_push_of_a_stranger_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = ShardRig()
    monkeypatch.setattr(Shard, "members", ())
    rig.members[2] = Member(2, 1)
    rig.tell()
    rig.push(0)
    assert "no member" in rig.found(1)[0]


def test_a_checkpoint_without_its_ledger_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = ShardRig()
    rig.push(0)
    rig.checkpoint()
    assert rig.found() == []
    report = Ledger.report
    monkeypatch.setattr(
        Ledger,
        "report",
        lambda self, *which: type(report(self, *which))(0, 1, 0, 0, 0, 0, 0, 0),
    )
    rig.checkpoint()
    assert "in its ledger" in rig.found(1)[0]


def test_a_loss_that_nobody_reports_is_found() -> None:
    rig = ShardRig()
    rig.push(0)
    rig.checkpoint()
    rig.crash()
    rig.end("finished")
    assert rig.found() == [], "all that it had is in the checkpoint"
    rig = ShardRig()
    rig.checkpoint()
    rig.push(0)
    rig.crash()
    rig.end("failed")
    assert rig.found() == [], "a run that failed has reported it"
    rig.end("finished")
    assert "its last checkpoint lacks push 1 of worker 0" in rig.found(1)[0]


@pytest.mark.parametrize("mode", ["asp", "bsp"])
def test_a_backup_that_takes_over_has_what_was_acknowledged(mode: str) -> None:
    rig = ShardRig(mode)
    rig.push(0)
    backup = rig.copied("server-1")
    rig.push(1)
    rig.forward("server-1", backup)
    rig.take(rig.next_push(0))
    rig.crash()
    rig.replica = rig.reigning("server-1", backup)
    rig.host = "server-1"
    rig.sequences[0, 1] -= 1
    rig.push(0)
    rig.push(1)
    rig.checkpoint()
    rig.end("finished")
    assert rig.found() == []


def test_a_backup_that_takes_over_without_something_is_found() -> None:
    rig = ShardRig()
    backup = rig.copied("server-1")
    rig.push(0)
    rig.crash()
    rig.reigning("server-1", backup)
    rig.note("promote", "acknowledged entries may be lost", "shard 1")
    rig.end("stopped")
    assert "taken over in term 2 without push 1 of worker 0" in rig.found(1)[0]


def test_a_loss_that_is_reported_is_none() -> None:
    rig = ShardRig()
    backup = rig.copied("server-1")
    rig.push(0)
    rig.crash()
    rig.replica = rig.reigning("server-1", backup)
    rig.note("promote", "at least 1 acknowledged entries are lost", "shard 0")
    rig.checkpoint()
    rig.end("finished")
    assert rig.found() == []


def test_a_beginning_from_the_checkpoint_beside_a_copy_that_lives_is_found() -> None:
    rig = ShardRig()
    saved = rig.checkpoint()
    backup = rig.copied("server-1")
    rig.push(0)
    rig.forward("server-1", backup)
    rig.crash()
    rig.note("go back", "the work of at least 1 samples is lost")
    rig.now += 100.0
    rig.made(rig.host, saved)
    rig.end("stopped")
    assert rig.found() == ["1 server-0: shard 0 begins anew, though copies of all shards are alive"]


def test_two_primaries_of_a_term_are_found() -> None:
    rig = ShardRig()
    backup = rig.copied("server-1")
    rig.term -= 1
    rig.reigning("server-1", backup)
    assert "in which server-0 is the primary" in rig.found(2)[0]


def test_an_acknowledgement_of_an_old_term_is_found() -> None:
    rig = ShardRig()
    old, backup = rig.replica, rig.copied("server-1")
    safe, unsafe = rig.next_push(0), rig.next_push(1)
    outcome = rig.take(safe, old)
    rig.forward("server-1", backup)
    rig.replica = rig.reigning("server-1", backup)
    rig.answer(safe, outcome, old)
    assert rig.found() == [], "those after it know this push"
    rig.answer(unsafe, rig.take(unsafe, old), old)
    assert "acknowledges push 1 of worker 1 to shard 0 in term 1" in rig.found(2)[0]


def test_a_promise_that_is_broken_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = ShardRig()
    rig.replica.seal(2)
    rig.watch.tell("replica_changed", rig.host, rig.replica, "sealed")
    assert rig.found() == []
    rig.replica.term, rig.replica.role = 1, "primary"
    rig.take(rig.next_push(0))
    assert "this copy has promised term 2" in rig.found(2)[0]
    rig.watch.tell("replica_changed", rig.host, rig.replica, "reign")
    assert "is back in term 1" in rig.found(2)[0]


@pytest.mark.parametrize("mode", ["asp", "bsp"])
def test_a_copy_of_other_bits_is_found(mode: str) -> None:
    rig = ShardRig(mode)
    rig.push(0)
    backup = rig.copied("server-1")
    rig.push(1)
    rig.forward("server-1", backup)
    assert rig.found() == []
    backup.shard.buffers[0] += 1.0
    rig.push(0)
    rig.forward("server-1", backup)
    assert "of term 1 differs from that on server-0 there" in rig.found(3)[0]


@pytest.mark.parametrize(("mode", "bound"), [("ssp", 1), ("bsp", 0)])
def test_a_gate_that_lets_everyone_through_is_found(
    mode: str, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = ShardRig(mode, staleness_bound=1)
    for _ in range(bound + 1):
        rig.push(0)
    rig.watch.tell("gate_passed", rig.host, rig.shard, 1, 1)
    assert rig.found() == []
    monkeypatch.setattr(Gate, "may_proceed", lambda *_: True)
    rig.watch.tell("gate_passed", rig.host, rig.shard, 0, 1)
    assert "lets worker 0 go on" in rig.found(4)[0]
    rig.push(0)
    assert "clocks ahead" in rig.found(4)[0]


def test_a_floor_that_falls_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = ShardRig("ssp", staleness_bound=1)
    for _ in range(3):
        rig.push(0)
        rig.push(1)
    set_members = Gate.set_members

    def from_zero(self: Gate, members: Any) -> None:
        set_members(self, members)
        self._clocks[2] = 0
        self._find_floor()

    monkeypatch.setattr(Gate, "set_members", from_zero)
    rig.members[2] = Member(2, 1)
    rig.tell()
    rig.push(0)
    assert "puts worker 0" in rig.found(4)[0]


def test_a_dead_worker_that_stays_a_member_is_found() -> None:
    rig = ShardRig()
    table = Membership(lease_seconds=5.0)
    table.join("pi", 7, now=0.0)
    state = SimpleNamespace(membership=table, phase="training", stop_reason=None, plan=None)
    session = SimpleNamespace(joined=SimpleNamespace(worker=0, name="pi"), incarnation=7)
    session.identity = SimpleNamespace(local_samples=None)
    session.client = SimpleNamespace(links=())
    session.binding = SimpleNamespace(parameters=None)
    state.check_invariants = table.check_invariants
    rig.watch.tell("worker_joined", "pi-1", session)
    rig.watch.tell("host_gone", "pi-1")
    for _ in range(60):
        rig.now += 1.0
        rig.watch.tell("supervisor_ticked", rig.host, SimpleNamespace(state=state))
    assert rig.found() == [], "the lease, and time to tell the servers"
    rig.now += 1000.0
    rig.watch.tell("supervisor_ticked", rig.host, SimpleNamespace(state=state))
    assert rig.found() == [], "the supervisor was stopped meanwhile"
    for _ in range(10):
        rig.now += 1.0
        rig.watch.tell("supervisor_ticked", rig.host, SimpleNamespace(state=state))
    assert "still a member" in rig.found(4)[0]


@pytest.mark.parametrize("gradient", [(NAN, 1.0), (1.0, 2.0)])
def test_a_refused_push_that_changes_something_is_found(
    gradient: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = ShardRig(lag_bound=0, lag_action="refuse")
    rig.push(1)
    rig.push(0, *gradient, version=0)
    assert rig.found() == []
    push = Shard.push

    def careless(self: Shard, pushed: Any) -> Any:
        outcome = push(self, pushed)
        self.parameters[0] += 1.0
        return outcome

    monkeypatch.setattr(Shard, "push", careless)
    rig.push(0, *gradient, version=0)
    assert "though its outcome is REFUSED" in rig.found(7)[0]


def test_a_frame_that_is_turned_away_and_changes_something_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = ShardRig()

    def careless(self: Shard, pushed: Any) -> None:
        self.buffers += 1.0
        raise PsedgeError("does not fit")

    monkeypatch.setattr(Shard, "push", lambda self, push: careless(self, push))
    with pytest.raises(PsedgeError):
        rig.push(0)
    assert "though it was turned away" in rig.found(7)[0]


def test_a_change_from_elsewhere_is_found() -> None:
    rig = ShardRig()
    rig.shard.parameters[0] = 1.0
    rig.push(0)
    assert "no push" in rig.found(7)[0]


def test_other_bits_than_the_checkpoint_are_found() -> None:
    rig = ShardRig()
    rig.push(0)
    state, arrays = rig.checkpoint()
    rig.crash()
    rig.replica = rig.made(rig.host, (state, arrays))
    assert rig.found() == []
    arrays["parameters"][1] = np.nextafter(arrays["parameters"][1], np.float32(9))
    rig.replica = rig.made(rig.host, (state, arrays))
    assert "other bits than its checkpoint: parameters" in rig.found(3)[0]


def test_a_core_that_contradicts_itself_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = ShardRig()
    rig.push(0)
    apply = UpdateRule.apply

    def twice(self: UpdateRule, *things: Any, **further: Any) -> None:
        apply(self, *things, **further)
        apply(self, *things, **further)

    monkeypatch.setattr(UpdateRule, "apply", twice)
    rig.push(0)
    assert "contradicts itself" in rig.found(0)[0]
