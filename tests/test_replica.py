"""A copy of a shard: its roles, its log, and what it refuses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from replica_rig import (
    ALL,
    Copies,
    assert_equal,
    carried,
    delivered,
    fresh_shard,
    peer,
    refusal_of,
    reign,
    twin_of,
)
from shard_cluster import frame_of, pushed, vector

from psedge.protocol.errors import DamagedError, FrameError, RefusedError
from psedge.protocol.log_entry import EntryKind
from psedge.protocol.replicas import Append, Position, Role
from psedge.protocol.shards import Member, Members
from psedge.protocol.wire import Status
from psedge.server.replica import Replica, replica_of

MODES = ["bsp", "ssp", "asp"]


def primary_of(mode: Any = "asp", **further: Any) -> Replica:
    """A primary with a log on disk, two workers and no peers."""
    replica = Replica(fresh_shard(mode, **further), 0)
    replica.follow(reign(1, 1, 0))
    replica.set_members(Members(1, (Member(0, 1), Member(1, 1))))
    return replica


def push(replica: Replica, worker: int, sequence: int, *gradient: float) -> Any:
    frame = frame_of(worker, 1, sequence, 0, 4, vector(*gradient or (1.0, 2.0)))
    return replica.push(pushed(frame, replica.shard), [frame])


def test_what_changes_a_shard_is_an_entry_and_nothing_else_is() -> None:
    replica = primary_of()
    assert replica.at == Position(1, 2)
    outcome, index, entries = push(replica, 0, 1)
    assert (outcome.status, index) == (Status.APPLIED, 3)
    assert [(one.index, one.term, one.kind) for one in entries] == [(3, 1, EntryKind.PUSH)]
    assert bytes(entries[0].body) == frame_of(0, 1, 1, 0, 4, vector(1.0, 2.0))
    outcome, index, entries = push(replica, 0, 1, 9.0, 9.0)
    assert (outcome.status, index, entries) == (Status.DUPLICATE, 3, []), "a retry"
    outcome, index, entries = push(replica, 0, 2, float("nan"), 0.0)
    assert outcome.status is Status.REFUSED_NONFINITE
    assert (index, len(entries)) == (4, 1), "it steps the worker's clock"
    assert push(replica, 0, 2)[0].status is Status.REFUSED_NONFINITE
    with pytest.raises(RefusedError):
        push(replica, 7, 1)
    with pytest.raises(FrameError):
        replica.push(msgspec.structs.replace(pushed(_frame(), replica.shard), samples=0), [])
    assert replica.set_members(Members(1, (Member(0, 1), Member(1, 1)))) == []
    assert replica.set_members(Members(0, ())) == []
    assert replica.at.index == 4
    replica.check_invariants()


def _frame() -> bytes:
    return frame_of(1, 1, 1, 0, 4, vector(1.0, 2.0))


def test_a_frame_in_parts_is_one_body() -> None:
    replica, frame = primary_of(), _frame()
    _, _, entries = replica.push(
        pushed(frame, replica.shard), [bytearray(frame[:124]), frame[124:]]
    )
    assert bytes(entries[0].body) == frame


def test_a_digest_is_written_every_so_often() -> None:
    primary = primary_of(digest_every=3)
    kinds = [push(primary, worker, sequence)[2] for sequence in (1, 2) for worker in (0, 1)]
    assert [[one.kind for one in some] for some in kinds] == [
        [EntryKind.PUSH, EntryKind.DIGEST],
        [EntryKind.PUSH],
        [EntryKind.PUSH],
        [EntryKind.PUSH, EntryKind.DIGEST],
    ]
    assert primary.at.index == 8


def test_with_nobody_who_wants_entries_they_are_only_counted() -> None:
    replica = Replica(fresh_shard(digest_every=1), 0, keeps=False)
    assert not replica.keeps_entries
    assert replica.follow(reign(1, 1, 0)) == []
    assert replica.set_members(Members(1, (Member(0, 1),))) == []
    assert push(replica, 0, 1)[1:] == (3, [])
    assert replica.at == Position(1, 3)
    assert replica.acknowledged(0.0) == 3
    assert replica.entries_after(Position(1, 2), ALL) is None
    replica.follow(reign(1, 2, 0, learners=(1,)))
    assert replica.keeps_entries
    assert len(push(replica, 0, 2)[2]) == 2, "and the digest"
    assert replica.entries_after(Position(1, 2), ALL) is None
    entries = replica.entries_after(Position(1, 3), ALL)
    assert entries is not None
    assert [one.kind for one in entries] == [EntryKind.PUSH, EntryKind.DIGEST]
    replica.check_invariants()


@pytest.mark.parametrize(
    ("sync", "keeps", "acknowledged"),
    [("always", True, 2), ("always", False, 3), ("group", True, 2), ("off", True, 3)],
)
def test_the_own_log_counts_once_it_has_the_entry(
    sync: Any, keeps: bool, acknowledged: int
) -> None:
    shard = fresh_shard()
    shard.assignment = msgspec.structs.replace(
        shard.assignment, log=msgspec.structs.replace(shard.assignment.log, sync=sync)
    )
    replica = Replica(shard, 0, keeps=keeps)
    replica.follow(reign(1, 1, 0))
    replica.set_members(Members(1, (Member(0, 1),)))
    replica.own_log = 2
    push(replica, 0, 1)
    assert replica.acknowledged(0.0) == acknowledged
    replica.own_log = 3
    assert replica.acknowledged(0.0) == 3
    replica.check_invariants()


def test_a_term_begins_with_an_entry_of_its_own() -> None:
    replica = primary_of()
    assert replica.terms == ((1, 1),)
    assert replica.follow(reign(1, 2, 0, learners=(5,))) == [], "the same term"
    replica.seal(3)
    entries = replica.follow(reign(3, 3, 0))
    assert [(one.index, one.term, one.kind) for one in entries] == [(3, 3, EntryKind.TERM)]
    assert replica.terms == ((1, 1), (3, 3))
    assert replica.at == Position(3, 3)
    for term in range(4, 100):
        replica.follow(reign(term, term, 0))
    assert len(replica.terms) == 64
    assert replica.entries_after(Position(3, 3), ALL) is None, "that is too long ago"
    replica.check_invariants()


@pytest.mark.parametrize("role", ["primary", "backup", "learner"])
def test_who_is_sealed_takes_part_in_no_earlier_term(role: Role) -> None:
    replica = Replica(fresh_shard(), 0)
    everyone: dict[str, Any] = {
        "primary": reign(1, 1, 0, (1,)),
        "backup": reign(1, 1, 1, (0,)),
        "learner": reign(1, 1, 1, (), (0,)),
    }
    replica.follow(everyone[role])
    assert replica.role == role
    replica.seal(4)
    replica.seal(4)
    assert (replica.role, replica.term) == ("sealed", 4)
    assert refusal_of(replica.seal, 3) == "stale-term"
    assert refusal_of(replica.follow, reign(3, 9, 0)) == "stale-term"
    assert refusal_of(replica.append, Append(0, 3, replica.at), ()) == "stale-term"
    assert refusal_of(replica.require_primary, 1) == "not-primary"
    assert refusal_of(replica.require_primary, 4) == "not-primary"
    assert replica.acknowledged(float("-inf")) == 0
    replica.check_invariants()
    replica.follow(reign(4, 2, 0))
    replica.require_primary(4)
    replica.check_invariants()


def test_an_older_reign_of_the_same_term_is_ignored() -> None:
    replica = primary_of()
    replica.follow(reign(1, 5, 0, (1,)))
    replica.follow(reign(1, 4, 2, (0,)))
    replica.follow(reign(1, 5, 2, (0,)))
    assert (replica.role, replica.peers()) == ("primary", (peer(1),))


def test_a_reign_without_this_server_leaves_it_sealed() -> None:
    replica = primary_of()
    assert replica.follow(reign(2, 2, 5, (6,))) == []
    assert (replica.role, replica.term, replica.state(0.0).revision) == ("sealed", 2, 2)
    assert replica.in_set() == replica.peers() == ()
    replica.check_invariants()


def test_a_message_of_a_later_term_deposes_a_primary() -> None:
    replica = primary_of()
    appended, _ = replica.append(Append(0, 2, Position(2, 9)), ())
    assert (appended.outcome, replica.role, replica.term) == ("gap", "sealed", 2)
    assert refusal_of(replica.require_primary, 1) == "not-primary"


def test_a_primary_takes_no_entries_of_its_own_term() -> None:
    replica = primary_of()
    assert refusal_of(replica.append, Append(0, 1, replica.at), ()) == "conflict"


def test_a_copy_from_disk_takes_nothing_before_it_hears_who_reigns() -> None:
    """It may have promised a term before it was restarted."""
    order, arrays = carried(*primary_of().order())
    replica = replica_of(order, arrays, (), 7)
    assert (replica.role, replica.at) == ("recovered", order.at)
    assert refusal_of(replica.append, Append(0, 9, order.at), ()) == "not-ready"
    replica.follow(reign(2, 2, 0, learners=(7,)))
    assert replica.append(Append(0, 2, order.at), ())[0].outcome == "appended"


@pytest.mark.parametrize(("alone", "outcome"), [(1, "gap"), (5, "differs")])
def test_a_deposed_primary_returns_and_what_nobody_acknowledged_is_gone(
    alone: int, outcome: str
) -> None:
    copies = Copies()
    for worker in range(1 + alone):
        copies.join(worker)
    old, backup = copies.replicas[0], copies.replicas[1]
    copies.push(0, 1.0)
    copies.send_all()
    told = copies.primary.at
    old.lease_until = 5.0
    backup.seal(2)
    for worker in range(1, 1 + alone):
        copies.push(worker, 5.0)
    assert refusal_of(copies.send, 1) == "stale-term"
    assert old.acknowledged(now=4.0) == told.index
    assert old.acknowledged(now=6.0) == told.index
    for worker in range(2, 1 + alone):
        # Only one of them is still there to try again.
        del copies.workers[worker]
    copies.fail_over()
    assert copies.primary is backup
    copies.push(0, 2.0)
    assert copies.primary.acknowledged(99.0) == copies.primary.at.index, "it is alone"
    copies.change(learners=(0,))
    assert (old.role, old.at > told) == ("learner", True)
    answer = copies.send(0)
    assert answer is not None
    assert answer.outcome == outcome
    copies.send_all()
    assert_equal(copies.replicas[0], backup)
    assert copies.replicas[0] is not old


def test_who_has_another_entry_at_an_index_has_not_this_one() -> None:
    replica = primary_of()
    replica.seal(3)
    replica.follow(reign(3, 2, 0, (1,)))
    push(replica, 0, 1)
    assert replica.at == Position(3, 4)
    for other in (Position(1, 4), Position(2, 3), Position(3, 5)):
        replica.heard(1, other)
        assert replica.acknowledged(0.0) == 0, other
        assert replica.entries_after(other, ALL) is None
    for index in (3, 4):
        replica.heard(1, Position(3, index))
        assert replica.acknowledged(0.0) == index


def test_a_primary_without_its_supervisor_acknowledges_what_all_backups_have() -> None:
    copies = Copies(servers=3)
    copies.join(0)
    copies.send_all()
    told = copies.primary.at.index
    copies.primary.lease_until = 5.0
    copies.push(0, 1.0)
    copies.send(1)
    assert copies.primary.acknowledged(now=5.0) == told + 1
    assert copies.primary.acknowledged(now=5.1) == told
    copies.send(2)
    assert copies.primary.acknowledged(now=5.1) == told + 1
    state = copies.primary.state(5.1)
    assert (state.acknowledged, state.lagging) == (told + 1, ((1, 0), (2, 0)))


@pytest.mark.parametrize("mode", MODES)
def test_a_copy_that_is_made_in_the_middle_gets_what_happens_meanwhile(mode: str) -> None:
    copies = Copies(mode, servers=1)
    for worker in range(3):
        copies.join(worker)
    copies.push(0, 1.0)
    copies.push(1, float("nan"))
    copies.push(2, 1.0)
    copies.change(learners=(1,))
    copies.push(1, 2.0)
    order, arrays = carried(*copies.primary.order())
    copies.push(0, 3.0)
    copies.join(2)
    newcomer = replica_of(order, arrays, (), 1, keeps=False)
    newcomer.follow(copies.reign)
    entries = copies.primary.entries_after(order.at, ALL)
    assert entries is not None
    newcomer.append(Append(0, 1, order.at), delivered(entries))
    assert_equal(newcomer, copies.primary)


def test_an_image_of_a_round_that_nobody_kept_has_to_wait_for_its_end() -> None:
    copies = Copies("bsp", servers=1)
    copies.join(0)
    copies.join(1)
    copies.push(0, 1.0)
    copies.change(learners=(1,))
    assert refusal_of(copies.primary.order) == "not-ready"
    copies.push(1, 1.0)
    assert_equal(twin_of(copies.primary), copies.primary)
    copies.push(0, 1.0)
    assert_equal(twin_of(copies.primary), copies.primary)


@pytest.mark.parametrize("mode", MODES)
def test_the_tail_in_memory_stays_small_and_never_loses_an_unfinished_round(mode: str) -> None:
    """One learner never answers."""
    copies = Copies(mode, servers=2, digest_every=10**6)
    copies.primary.tail_limit_bytes = 500
    for worker in range(20):
        copies.join(worker)
    copies.change(learners=(7,))
    for _ in range(5):
        for worker in range(20):
            copies.push(worker, 1.0)
            copies.send(1)
            kept, left_out = copies.primary._tail, copies.primary.shard.left_out
            assert kept.size <= 500 or len(kept) == left_out
            assert_equal(twin_of(copies.primary), copies.primary)


def test_entries_that_all_have_are_forgotten() -> None:
    copies = Copies()
    copies.join(0)
    primary, backup = copies.replicas[0], copies.replicas[1]
    for _ in range(50):
        copies.push(0, 1.0)
        copies.send(1)
        assert primary.entries_after(primary.at, ALL) == []
        assert primary.entries_after(Position(1, primary.at.index - 1), ALL) is None
    backup.check_invariants()


def test_a_log_that_does_not_continue_its_snapshot_is_damaged() -> None:
    copies = Copies()
    copies.join(0)
    primary = copies.primary
    copies.change(learners=(7,))
    order, arrays = carried(*primary.order())
    for _ in range(3):
        copies.push(0, 1.0)
    entries = primary.entries_after(order.at, ALL)
    assert entries is not None
    whole = replica_of(order, arrays, entries, 5)
    assert_equal(whole, primary)
    assert whole.own_log == primary.at.index
    with pytest.raises(DamagedError, match="entry 4"):
        replica_of(order, arrays, [entries[1]], 5)
    wrong = msgspec.structs.replace(entries[0], body=bytes(200))
    with pytest.raises(DamagedError):
        replica_of(order, arrays, [wrong], 5)


def test_an_image_that_does_not_fit_is_refused() -> None:
    order, arrays = carried(*primary_of().order())
    assert order.state is not None
    with pytest.raises(FrameError):
        replica_of(order, arrays | {"parameters": vector(1.0)}, (), 1)
    accounts = order.state.accounts
    assert accounts is not None
    odd = (msgspec.structs.replace(accounts[0], latest_status=77),)
    state = msgspec.structs.replace(order.state, accounts=odd)
    with pytest.raises(FrameError):
        replica_of(msgspec.structs.replace(order, state=state), arrays, (), 1)
