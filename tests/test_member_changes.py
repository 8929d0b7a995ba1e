"""Shards that are told only what changed among the workers end up as those that are told of all."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from shard_cluster import Cluster

from psedge.protocol.shards import Member, Members, Progress
from psedge.server.shard import Push, Shard
from psedge.supervisor.membership import Membership
from psedge.supervisor.progress_table import ProgressTable


def changed(table: Membership, chance: random.Random, now: float) -> None:
    """One thing that may happen to a table of workers."""
    live = table.live()
    what = chance.randrange(5)
    if what == 0 or not live:
        table.join(f"pi-{chance.randrange(6)}", chance.getrandbits(40), now)
    elif what == 1:
        entry = chance.choice(live)
        table.leave(entry.worker, entry.incarnation)
    elif what == 2:
        entry = chance.choice(live)
        table.renew(entry.worker, entry.incarnation, now)
    elif what == 3:
        table.expire(now)
    else:
        entry = chance.choice(live)
        table.set_idle(entry.worker, entry.incarnation, chance.random() < 0.5)


@pytest.mark.parametrize("mode", ["bsp", "ssp", "asp"])
@pytest.mark.parametrize("seed", range(8))
def test_changes_lead_where_the_whole_list_leads(mode: str, seed: int) -> None:
    chance = random.Random(seed)
    table = Membership(lease_seconds=30.0, recent_seconds=5.0)
    told_all, told_changes = Cluster(mode, workers=0).shard, Cluster(mode, workers=0).shard
    shards = (told_all, told_changes)
    for shard in shards:
        shard.set_members(table.members())
    heard, sequences = table.revision, Counter[int]()
    for now in range(300):
        for _ in range(chance.randrange(3)):
            changed(table, chance, float(now))
        told_all.set_members(table.members())
        told_changes.set_members(table.members(heard))
        if chance.random() < 0.8:
            heard = table.revision
        push_one(shards, table, sequences, chance)
        table.check_invariants()
        agree(told_all, told_changes)


def push_one(
    shards: tuple[Shard, Shard],
    table: Membership,
    sequences: Counter[int],
    chance: random.Random,
) -> None:
    """A member that may go on takes a step on both."""
    for entry in chance.sample(table.live(), len(table.live())):
        if shards[0].may_proceed(entry.worker):
            sequences[entry.incarnation] += 1
            sequence, samples = sequences[entry.incarnation], chance.randrange(1, 9)
            push = Push(entry.worker, entry.incarnation, sequence, 0, samples, None)
            assert shards[0].push(push) == shards[1].push(push)
            return


def agree(told_all: Shard, told_changes: Shard) -> None:
    for shard in (told_all, told_changes):
        shard.check_invariants()
    assert set(told_all.members) == set(told_changes.members)
    for member in told_all.members:
        assert told_all.clock(member.worker) == told_changes.clock(member.worker)
    first, second = told_all.report(), told_changes.report()
    assert sorted(first.workers, key=_key) == sorted(second.workers, key=_key)


def _key(progress: Progress) -> tuple[int, int]:
    return progress.worker, progress.incarnation


def test_a_shard_that_missed_a_change_says_so_and_keeps_what_it_has() -> None:
    shard = Cluster("asp", workers=1).shard
    before = shard.members
    shard.set_members(Members(9, (Member(5, 1),), since=8))
    assert shard.members == before
    assert shard.summary().revision < 8
    shard.set_members(Members(9, (Member(5, 1),)))
    assert [member.worker for member in shard.members] == [5]
    assert shard.summary().revision == 9


def test_progress_is_told_once_and_in_order() -> None:
    cluster = Cluster("asp", workers=3)
    for worker in (2, 0, 2):
        cluster.push(worker, 1.0, 1.0, samples=4)
    report, change = cluster.shard.news(0)
    assert [progress.worker for progress in report.workers] == [0, 2]
    assert cluster.shard.news(change)[0].workers == ()
    cluster.push(1, 1.0, 1.0, samples=4)
    assert [progress.worker for progress in cluster.shard.news(change)[0].workers] == [1]
    first, upto = cluster.shard.news(0, most=2)
    assert [progress.worker for progress in first.workers] == [0, 2]
    assert [progress.worker for progress in cluster.shard.news(upto)[0].workers] == [1]


def test_old_reports_take_nothing_back() -> None:
    table = ProgressTable()
    table.take([Progress(3, 7, sequence=2, samples=20), Progress(3, 8, sequence=1, samples=5)])
    table.take([Progress(3, 7, sequence=1, samples=10)])
    found = table.of(3, 7), table.of(3, 8)
    assert [progress.samples for progress in found if progress] == [20, 5]
    assert {progress.samples for progress in table.take_fresh()} == {20, 5}
    assert table.take_fresh() == []


def test_a_report_that_comes_late_drives_no_later_incarnation_out() -> None:
    """A worker has come in again twice, and all of it is reported once more."""
    table = ProgressTable()
    before = [Progress(3, 6, sequence=2, samples=16), Progress(3, 7, sequence=4, samples=32)]
    table.take([*before, Progress(3, 8, sequence=9, samples=72)])
    for late in ([*before, Progress(3, 8, sequence=8, samples=64)], before):
        table.take(late)
        found = table.of(3, 8)
        assert found is not None
        assert found.samples == 72
