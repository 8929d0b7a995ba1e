"""What the supervisor must remember over its own death, as rows of a store.

Every `save_*` returns once the rows are stored. Rows that are saved while a commit is under way go
together with the next one, so that many workers cost the disk one sync and not many. While the
store takes nothing, because the disk is full, whoever saves waits, and people are told once.

A supervisor that opens a book fences the ones before it: each commit expects the generation that
the writer counted up when it opened the book.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from psedge.protocol.errors import ConfigError, PsedgeError
from psedge.protocol.ports import Clock, RandomBits
from psedge.protocol.status import Event
from psedge.supervisor import book_rows
from psedge.supervisor.book_rows import BookState, Origin, RunRecord
from psedge.supervisor.data_plan import PlanChanges
from psedge.supervisor.journal import Journal
from psedge.supervisor.membership import WorkerEntry
from psedge.supervisor.shard_table import ServerRecord, ShardTableState
from psedge.supervisor.store import ConflictError, StateStore, StoreError

#: Pause before a store that took nothing is tried again, and the longest such pause.
RETRY_SECONDS, RETRY_LONGEST_SECONDS = 0.2, 5.0

Rows = Mapping[str, bytes | None]


class Book:
    """Made by `open`. identity: tells the run from all others, over every restart.

    copied_from: where the run folder was copied from, if it was; what is known of servers and
    workers then belongs to that run, and `restored` says nothing of it. notify: tells people what
    could not be written.
    """

    def __init__(
        self,
        store: StateStore,
        rows: dict[str, bytes],
        clock: Clock,
        notify: Callable[[str], None],
    ) -> None:
        self.identity = rows[book_rows.IDENTITY].decode()
        self.copied_from = ""
        #: Why this supervisor may not write any more; empty while it may.
        self.superseded = ""
        self._store = store
        self._clock = clock
        self.notify = notify
        self._generation = rows[book_rows.GENERATION]
        self._restored = book_rows.restored(rows)
        self._keys = set(rows)
        self._waiting: dict[str, bytes | None] = {}
        self._next: asyncio.Future[None] | None = None
        self._under_way: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        store: StateStore,
        clock: Clock,
        notify: Callable[[str], None],
        random_bits: RandomBits,
        origin: Origin | None = None,
    ) -> Book:
        """Read what earlier supervisors left, and fence them.

        origin: where the book lies; a book that lies elsewhere than it did was copied.
        Raises ConfigError when the store cannot be used, or another supervisor opens it too.
        """
        try:
            found = rows = await store.read()
            copied_from = book_rows.copied_from(found, origin)
            if copied_from:
                rows = book_rows.without_nodes(found)
            writes = book_rows.opening(rows, random_bits, origin)
            gone = dict.fromkeys(found.keys() - rows.keys())
            changed = {key: value for key, value in rows.items() if found[key] != value}
            await store.commit(
                {**gone, **changed, **writes},
                expect={book_rows.GENERATION: found.get(book_rows.GENERATION)},
            )
            book = cls(store, {**rows, **writes}, clock, notify)
        except ConflictError as error:
            raise ConfigError(f"another supervisor has just been started here: {error}") from error
        except StoreError as error:
            raise ConfigError(f"the supervisor's memory cannot be used: {error}") from error
        except (msgspec.DecodeError, ValueError) as error:
            raise ConfigError(
                f"the supervisor's memory holds what no supervisor of this version wrote ({error}):"
                " move it away to go on from the last checkpoint"
            ) from error
        book.copied_from = copied_from
        return book

    @property
    def is_first(self) -> bool:
        """Whether no supervisor had this book before."""
        return self._generation == b"1"

    def restored(self) -> BookState | None:
        """What an earlier supervisor left; None for a new run."""
        return self._restored

    async def save_shards(self, table: ShardTableState, servers: Sequence[ServerRecord]) -> None:
        """Before a reign is sent, or a server hears its number."""
        await self._save(book_rows.shard_rows(table, servers))

    async def save_members(self, revision: int, changed: Iterable[WorkerEntry]) -> None:
        """Before a worker hears that it has joined. changed: entries since the last call."""
        rows = book_rows.member_rows(changed)
        await self._save(rows | book_rows.revision_row(revision) if rows else rows)

    async def save_plan(self, changes: PlanChanges) -> None:
        """Before a claim is answered."""
        await self._save(book_rows.plan_rows(changes))

    async def save_run(self, record: RunRecord) -> None:
        """How far the run's life has come."""
        await self._save(book_rows.run_row(record))

    async def begin(
        self, record: RunRecord, revision: int, members: Iterable[WorkerEntry], plan: PlanChanges
    ) -> None:
        """Training starts, afresh or from a checkpoint: what was known of it before is over."""
        rows: dict[str, bytes | None] = {
            key: None for key in self._keys if book_rows.is_of_training(key)
        }
        rows |= book_rows.run_row(record) | book_rows.member_rows(members)
        rows |= book_rows.revision_row(revision) | book_rows.plan_rows(plan)
        await self._save(rows)

    def note(self, event: Event) -> None:
        """For the journal; it is stored with the next commit, at the latest after a `flush`."""
        self._waiting |= book_rows.event_row(event, Journal.slot(event))

    def flush(self) -> None:
        """Begin to store what waits, and to find out whether somebody else writes this book.

        Raises ConflictError if another supervisor has taken over, as far as is known.
        """
        self._require_hold()
        if self._under_way is None:
            self._start_commit()

    async def close(self) -> None:
        """Store what waits, if the store takes it, and let go of it."""
        writer = self._writer
        if writer is not None and not writer.done():
            await asyncio.wait((writer,), timeout=RETRY_SECONDS)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        elif self._waiting and not self.superseded:
            with contextlib.suppress(PsedgeError):
                await self._store.commit(self._waiting, expect=self._expected)
        await self._store.close()

    @property
    def _expected(self) -> Rows:
        return {book_rows.GENERATION: self._generation}

    async def _save(self, rows: Rows) -> None:
        """Return once these rows, and all that were saved before them, are stored."""
        self._require_hold()
        self._waiting |= rows
        if rows:
            self._start_commit()
        latest = self._next or self._under_way
        if latest is not None:
            # Who waits may be cancelled with its connection; others wait for the same commit.
            await asyncio.shield(latest)

    def _require_hold(self) -> None:
        if self.superseded:
            raise ConflictError(self.superseded)

    def _start_commit(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        if self._writer is None or self._writer.done():
            self._writer = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        """Commit after commit, until nobody waits for another."""
        while self._next is not None:
            done, self._next = self._next, None
            rows, self._waiting = self._waiting, {}
            self._under_way = done
            try:
                await self._commit(rows)
            except PsedgeError as error:
                self._give_up(error, done)
                return
            finally:
                self._under_way = None
            done.set_result(None)

    async def _commit(self, rows: Rows) -> None:
        pause, told = RETRY_SECONDS, False
        while True:
            try:
                await self._store.commit(rows, expect=self._expected)
                break
            except StoreError as error:
                if not told:
                    self.notify(
                        f"the supervisor cannot write its memory: {error}; training goes on, and "
                        "who asks for data waits until writing works again"
                    )
                told = True
                await self._clock.sleep(pause)
                pause = min(2 * pause, RETRY_LONGEST_SECONDS)
        if told:
            self.notify("writing works again: the supervisor's memory")
        self._keys |= rows.keys()

    def _give_up(self, error: PsedgeError, done: asyncio.Future[None]) -> None:
        """Nothing can be written any more: everybody who waits hears why."""
        self.superseded = (
            "another supervisor has taken over this run, so this one ends"
            if isinstance(error, ConflictError)
            else str(error)
        )
        for waiting in (done, self._next):
            if waiting is not None and not waiting.done():
                waiting.set_exception(ConflictError(self.superseded))
                # Nobody may be left who waits for it.
                waiting.exception()
        self._next = None
