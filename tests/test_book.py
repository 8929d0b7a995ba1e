"""The supervisor's book: what it costs, whom it fences, and what a full disk does to it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_cluster import TestClock

from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import ConfigError
from psedge.protocol.replicas import Peer, Reign
from psedge.protocol.shards import ScheduleSettings, SyncSettings
from psedge.supervisor.book import Book
from psedge.supervisor.book_rows import Origin, RunRecord
from psedge.supervisor.data_plan import DataPlan, PlanChanges
from psedge.supervisor.journal import KEPT_EVENTS, Journal
from psedge.supervisor.membership import Membership
from psedge.supervisor.shard_table import ServerRecord, ShardTableState
from psedge.supervisor.sqlite_store import FILE, SqliteStore
from psedge.supervisor.store import ConflictError, StoreError

RECORD = RunRecord(
    started_at=1000.0,
    sync=SyncSettings("bsp"),
    schedule=ScheduleSettings(),
    coding=CodingSettings(),
    assignments=(),
)
TABLE = ShardTableState((Reign(0, 3, 5, Peer(1, "http://a:1")),), ((0, 4),), 7)
SERVERS = (ServerRecord(0, "http://a:1", 11), ServerRecord(1, "http://b:1", 12, "store"))


class MemoryStore:
    """Rows in memory; each commit waits until it is let through."""

    def __init__(self, *, held: bool = False) -> None:
        self.rows: dict[str, bytes] = {}
        self.commits: list[dict[str, bytes | None]] = []
        self.failures = 0
        self.let = asyncio.Event()
        if not held:
            self.let.set()

    async def read(self) -> dict[str, bytes]:
        return dict(self.rows)

    async def commit(
        self,
        writes: Mapping[str, bytes | None],
        *,
        expect: Mapping[str, bytes | None] | None = None,
    ) -> None:
        await asyncio.sleep(0)
        await self.let.wait()
        if self.failures:
            self.failures -= 1
            raise StoreError("the disk is full")
        if any(self.rows.get(key) != value for key, value in (expect or {}).items()):
            raise ConflictError("another supervisor")
        self.commits.append(dict(writes))
        for key, value in writes.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    async def close(self) -> None:
        return


def counted() -> itertools.count[int]:
    return itertools.count(77)


async def opened(
    store: MemoryStore, notes: list[str] | None = None, origin: Origin | None = None
) -> Book:
    bits = counted()
    heard = notes if notes is not None else []
    return await Book.open(store, TestClock(), heard.append, lambda _: next(bits), origin)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 30))


def test_everything_is_found_again(tmp_path: Path) -> None:
    members = Membership(None)
    members.join("a", 1, 0.0, device="pi", process=7, machine="hall")
    members.join("b", 2, 0.0)
    plan = DataPlan.shared(10, 20)
    plan.claim(0, 1, 4, 1)

    async def story() -> None:
        store = await SqliteStore.open(tmp_path / FILE, pytest.fail)
        book = await Book.open(store, TestClock(), pytest.fail, lambda bits: 2**bits - 1)
        assert book.is_first
        assert book.restored() is None
        await book.save_shards(TABLE, SERVERS)
        await book.begin(RECORD, members.revision, members.entries(), plan.take_changes())
        journal = Journal()
        book.note(journal.add(5.0, "shard", "shard 0", "promote", "server 1 is dead"))
        members.leave(1, 2)
        await book.save_members(members.revision, members.changed_since(2))
        await book.close()
        store = await SqliteStore.open(tmp_path / FILE, pytest.fail)
        again = await Book.open(store, TestClock(), pytest.fail, lambda bits: 0)
        assert (again.identity, again.is_first) == (book.identity, False)
        assert len(again.identity) == 32
        kept = again.restored()
        assert kept is not None
        assert kept.training
        assert (kept.record, kept.table, kept.servers) == (RECORD, TABLE, SERVERS)
        assert kept.members.revision == members.revision
        assert kept.members.workers == members.entries()
        assert kept.plan is not None
        assert DataPlan.attached(kept.plan).claim(0, 1, 4, 1) == plan.claim(0, 1, 4, 1)
        assert Journal(kept.journal).latest(1)[0].reason == "server 1 is dead"
        await again.close()

    run(story())


def test_concurrent_saves_share_one_commit() -> None:
    async def story() -> None:
        store = MemoryStore()
        book = await opened(store)
        store.let.clear()
        plan = DataPlan.shared(1000, 1000)
        saves = []
        for worker in range(16):
            plan.claim(worker, 1, 4, 1)
            saves.append(asyncio.ensure_future(book.save_plan(plan.take_changes())))
            await asyncio.sleep(0)
        nothing = asyncio.ensure_future(book.save_plan(PlanChanges(None, {}, {})))
        await asyncio.sleep(0)
        assert not any(save.done() for save in (*saves, nothing))
        store.let.set()
        await asyncio.gather(*saves, nothing)
        # The opening, the first claim, and all others.
        assert len(store.commits) == 3
        await book.save_shards(TABLE, SERVERS)
        kept = (await opened(store)).restored()
        assert kept is not None
        assert kept.plan is not None
        assert DataPlan.attached(kept.plan).outstanding(15) == 4

    run(story())


def test_a_claim_costs_as_little_with_thousands_of_workers() -> None:
    async def story() -> None:
        store = MemoryStore()
        book = await opened(store)
        members, plan = Membership(None), DataPlan.shared(10**6, 10**6)
        for worker in range(2000):
            members.join(f"w{worker}", worker, 0.0)
            plan.claim(worker, worker, 4, 1)
        await book.begin(RECORD, members.revision, members.entries(), plan.take_changes())
        before = members.revision
        members.join("late", 9999, 0.0)
        await book.save_members(members.revision, members.changed_since(before))
        plan.claim(7, 7, 4, 2)
        await book.save_plan(plan.take_changes())
        assert [len(commit) for commit in store.commits[2:]] == [2, 2]
        assert sum(len(value or b"") for value in store.commits[-1].values()) < 500

    run(story())


def test_a_new_training_forgets_the_one_before() -> None:
    async def story() -> None:
        store = MemoryStore()
        book = await opened(store)
        plan = DataPlan.shared(10, 20)
        plan.claim(5, 1, 4, 1)
        members = Membership(None)
        members.join("a", 1, 0.0)
        await book.begin(RECORD, 1, members.entries(), plan.take_changes())
        book = await opened(store)
        await book.begin(RECORD, 9, (), DataPlan.shared(10, 20).take_changes())
        left = sorted(store.rows)
        assert left == [
            "generation",
            "identity",
            "members/revision",
            "plan/head",
            "plan/pool/",
            "run",
        ]

    run(story())


def test_an_older_supervisor_is_fenced_and_says_so() -> None:
    async def story() -> None:
        store = MemoryStore()
        old = await opened(store)
        new = await opened(store)
        assert new.identity == old.identity
        with pytest.raises(ConflictError, match="another supervisor has taken over this run"):
            await old.save_shards(TABLE, SERVERS)
        with pytest.raises(ConflictError):
            old.flush()
        await new.save_shards(TABLE, SERVERS)

    run(story())


def test_an_older_supervisor_with_nothing_to_say_finds_out_by_a_flush() -> None:
    async def story() -> None:
        store = MemoryStore()
        old = await opened(store)
        await opened(store)
        old.flush()
        await asyncio.sleep(0.01)
        with pytest.raises(ConflictError):
            old.flush()
        await old.close()

    run(story())


def test_of_two_that_open_at_once_one_goes_on() -> None:
    async def story() -> None:
        store = MemoryStore()
        outcomes = await asyncio.gather(opened(store), opened(store), return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Book", "ConfigError"]

    run(story())


def test_a_full_disk_makes_everybody_wait_and_is_said_once() -> None:
    async def story() -> None:
        store = MemoryStore()
        notes: list[str] = []
        book = await opened(store, notes)
        store.failures = 5
        first = asyncio.ensure_future(book.save_shards(TABLE, SERVERS))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(book.save_plan(DataPlan.shared(9, 9).take_changes()))
        await asyncio.gather(first, second)
        assert notes == [
            "the supervisor cannot write its memory: the disk is full; training goes on, and who "
            "asks for data waits until writing works again",
            "writing works again: the supervisor's memory",
        ]
        assert {"shards", "plan/head"} <= store.rows.keys()

    run(story())


def test_a_caller_that_is_gone_takes_nothing_with_it() -> None:
    async def story() -> None:
        store = MemoryStore()
        book = await opened(store)
        store.let.clear()
        gone = asyncio.ensure_future(book.save_shards(TABLE, SERVERS))
        stays = asyncio.ensure_future(book.save_plan(DataPlan.shared(9, 9).take_changes()))
        await asyncio.sleep(0)
        gone.cancel()
        store.let.set()
        await stays
        assert {"shards", "plan/head"} <= store.rows.keys()

    run(story())


def test_a_store_that_cannot_be_read_is_the_users_to_mend() -> None:
    class Broken(MemoryStore):
        async def read(self) -> dict[str, bytes]:
            raise StoreError("it is damaged")

    async def story() -> None:
        with pytest.raises(ConfigError, match="memory cannot be used: it is damaged"):
            await opened(Broken())

    run(story())


def test_rows_that_somebody_changed_are_the_users_to_mend() -> None:
    async def story() -> None:
        store = MemoryStore()
        await (await opened(store)).save_shards(TABLE, SERVERS)
        store.rows["servers"] = b'[{"server": "first"}]'
        with pytest.raises(ConfigError, match="holds what no supervisor of this version wrote"):
            await opened(store)

    run(story())


HERE = Origin("pc", "/runs/a", 5)


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (HERE, True),
        (Origin("pc", "/moved/a", 5), True),
        (Origin("container-2", "/runs/a", 5), True),
        (Origin("pc", "/runs/a", 6), True),
        (Origin("pc", "/runs/b", 6), False),
        (Origin("laptop", "/runs/a", 6), False),
    ],
)
def test_a_copied_run_folder_knows_no_servers_but_keeps_its_terms(now: Origin, same: bool) -> None:
    async def story() -> None:
        store = MemoryStore()
        book = await opened(store, origin=HERE)
        await book.save_shards(TABLE, SERVERS)
        await book.begin(RECORD, 1, (), DataPlan.shared(9, 9).take_changes())
        book.note(Journal().add(1.0, "run", "run", "start", ""))
        book.flush()
        await asyncio.sleep(0.01)
        bits = itertools.count(99)
        copy = await Book.open(store, TestClock(), pytest.fail, lambda _: next(bits), now)
        kept = copy.restored()
        assert kept is not None
        assert (copy.identity == book.identity) is same
        assert kept.training is same
        assert copy.copied_from == ("" if same else "/runs/a on pc")
        assert kept.table.reserved == TABLE.reserved
        assert len(kept.journal) == 1
        if not same:
            assert (kept.servers, kept.plan, kept.record) == ((), None, None)
        # From now on it is this one's place.
        assert (await opened(store, origin=now)).copied_from == ""

    run(story())


def test_the_journal_keeps_the_latest_events() -> None:
    journal = Journal()
    slots = {
        journal.slot(journal.add(float(number), "worker", "a", "dead", "silent"))
        for number in range(KEPT_EVENTS + 10)
    }
    assert len(slots) == len(journal) == KEPT_EVENTS
    assert [event.number for event in journal.latest(2)] == [KEPT_EVENTS + 8, KEPT_EVENTS + 9]
    assert len(journal.latest(10**6)) == KEPT_EVENTS
    again = Journal(reversed(journal.latest(3)))
    assert again.add(0.0, "run", "r", "stop", "").number == KEPT_EVENTS + 10
