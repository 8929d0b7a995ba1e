"""The table of workers: who is in, under which number, and until when.

A worker holds a lease that its heartbeats renew; one that is silent for longer is dead and holds
nobody back any more. A name keeps its number for the whole run, also over a resume, so that data,
figures and the order of workers stay attached to the machine and not to the process.
"""

from __future__ import annotations

import itertools
from typing import Literal

import msgspec

from psedge.protocol.errors import RefusedError
from psedge.protocol.messages import Heartbeat
from psedge.protocol.shards import Member, Members

State = Literal["alive", "idle", "left", "dead"]

#: Name of a worker that brings none.
DEFAULT_NAME = "worker"


class Totals(msgspec.Struct, frozen=True):
    """What a worker achieved, summed over its incarnations."""

    steps: int = 0
    samples: int = 0
    bytes_pushed: int = 0
    bytes_pulled: int = 0


class WorkerEntry(msgspec.Struct, frozen=True):
    """One worker.

    seen_at: `now` of its latest sign of life.
    heartbeat: the latest of this incarnation. before: totals of its earlier incarnations.
    note: why it left, if not by the user's wish.
    """

    worker: int
    name: str
    incarnation: int
    state: State = "alive"
    device: str = ""
    loader: bool = True
    local_samples: int | None = None
    seen_at: float = 0.0
    heartbeat: Heartbeat | None = None
    before: Totals = Totals()
    note: str = ""

    @property
    def live(self) -> bool:
        return self.state in ("alive", "idle")

    @property
    def totals(self) -> Totals:
        """Everything this worker achieved in the run."""
        last = self.heartbeat
        if last is None:
            return self.before
        return Totals(
            steps=self.before.steps + last.steps,
            samples=self.before.samples + last.samples,
            bytes_pushed=self.before.bytes_pushed + last.bytes_pushed,
            bytes_pulled=self.before.bytes_pulled + last.bytes_pulled,
        )


class MembershipState(msgspec.Struct, frozen=True):
    """What a checkpoint keeps of the table."""

    revision: int
    workers: tuple[WorkerEntry, ...]


class Membership:
    """All workers that ever joined this run.

    lease_seconds: silence after which a worker is dead.
    recent_seconds: a name is given to a newcomer when its holder has been silent for this long,
    so that a restarted worker gets its old place back before its old lease has run out.
    """

    def __init__(self, lease_seconds: float, recent_seconds: float | None = None) -> None:
        self.lease_seconds = lease_seconds
        self.recent_seconds = lease_seconds / 3 if recent_seconds is None else recent_seconds
        self.revision = 0
        self._entries: dict[int, WorkerEntry] = {}
        #: Numbers by name and by present incarnation.
        self._numbers: dict[str, int] = {}
        self._incarnations: dict[int, list[int]] = {}
        #: Numbers of the live ones, the longest silent first.
        self._live: dict[int, None] = {}
        #: The revision at which shards were last to hear of each worker, the latest last.
        self._changed_at: dict[int, int] = {}

    def join(
        self,
        name: str,
        incarnation: int,
        now: float,
        *,
        device: str = "",
        loader: bool = True,
        local_samples: int | None = None,
    ) -> WorkerEntry:
        """Let a worker in and return its entry.

        The same name gets the same number. A name that a live other incarnation holds gets a
        suffix (`pi`, `pi-2`, ...), as do several machines that nobody gave a name. Joining again
        under a live incarnation changes nothing: it is a retry after a lost reply.
        Raises RefusedError `conflict` for an incarnation whose time is over: what the shards
        counted for it has been settled.
        """
        wanted = name or DEFAULT_NAME
        again = self._holder_of(wanted, incarnation)
        if again is not None:
            if not again.live:
                raise RefusedError(
                    "conflict", f"worker {again.name} must join under a new incarnation"
                )
            return self._seen(msgspec.structs.replace(again, seen_at=now))
        entry = WorkerEntry(
            worker=len(self._entries),
            name=self._free_name(wanted, now),
            incarnation=incarnation,
            device=device,
            loader=loader,
            local_samples=local_samples,
            seen_at=now,
        )
        old = self.named(entry.name)
        if old is not None:
            entry = msgspec.structs.replace(entry, worker=old.worker, before=old.totals)
        return self._changed(self._seen(entry))

    def displaced(self, name: str, incarnation: int, now: float) -> WorkerEntry | None:
        """The live but silent worker whose place `join` would give to a newcomer, if there is one.

        What it holds has to be settled before.
        """
        wanted = name or DEFAULT_NAME
        if self._holder_of(wanted, incarnation) is not None:
            return None
        holder = self.named(self._free_name(wanted, now))
        return holder if holder is not None and holder.live else None

    def renew(
        self, worker: int, incarnation: int, now: float, heartbeat: Heartbeat | None = None
    ) -> bool:
        """Note a sign of life. False: not a live member under this incarnation, join again."""
        entry = self.entry(worker, incarnation)
        if entry is None:
            return False
        latest = heartbeat if heartbeat is not None else entry.heartbeat
        self._seen(msgspec.structs.replace(entry, seen_at=now, heartbeat=latest))
        return True

    def set_idle(self, worker: int, incarnation: int, idle: bool) -> bool:
        """Say whether a live worker is out of data. True: that changed the table."""
        entry = self.entry(worker, incarnation)
        state: State = "idle" if idle else "alive"
        if entry is None or entry.state == state:
            return False
        self._changed(msgspec.structs.replace(entry, state=state))
        return True

    def leave(self, worker: int, incarnation: int, failure: str = "") -> WorkerEntry | None:
        """An orderly goodbye; returns the entry as it is now. None: it was not a live member."""
        entry = self.entry(worker, incarnation)
        if entry is None:
            return None
        return self._changed(msgspec.structs.replace(entry, state="left", note=failure))

    def expire(self, now: float) -> list[WorkerEntry]:
        """Declare dead whose lease ran out, and return them as they are now."""
        dead = []
        for worker in self._live:
            entry = self._entries[worker]
            if now - entry.seen_at <= self.lease_seconds:
                break
            dead.append(entry)
        dead.sort(key=lambda entry: entry.worker)
        return [
            self._changed(
                msgspec.structs.replace(
                    entry, state="dead", note=f"no sign of life for {now - entry.seen_at:.0f} s"
                )
            )
            for entry in dead
        ]

    def entry(self, worker: int, incarnation: int) -> WorkerEntry | None:
        """A live member, or None."""
        entry = self._entries.get(worker)
        if entry is None or entry.incarnation != incarnation or not entry.live:
            return None
        return entry

    def is_current(self, worker: int, incarnation: int) -> bool:
        """Whether this incarnation is the worker's latest, be it live or gone."""
        entry = self._entries.get(worker)
        return entry is not None and entry.incarnation == incarnation

    def named(self, name: str) -> WorkerEntry | None:
        """Whoever holds a name, dead or alive."""
        worker = self._numbers.get(name)
        return None if worker is None else self._entries[worker]

    def entries(self) -> tuple[WorkerEntry, ...]:
        """Everyone, by number."""
        return tuple(self._entries[worker] for worker in sorted(self._entries))

    def live(self) -> tuple[WorkerEntry, ...]:
        return tuple(self._entries[worker] for worker in sorted(self._live))

    @property
    def live_count(self) -> int:
        return len(self._live)

    def members(self, since: int | None = None) -> Members:
        """The table as shards know it; the revision rises with every change of it.

        since: a revision of this table; only what has changed after it. None: all of it.
        """
        if since is None:
            return Members(self.revision, tuple(_member(entry) for entry in self.live()))
        latest = itertools.takewhile(
            lambda worker: self._changed_at[worker] > since, reversed(self._changed_at)
        )
        changed = [self._entries[worker] for worker in sorted(latest)]
        return Members(
            revision=self.revision,
            members=tuple(_member(entry) for entry in changed if entry.live),
            since=since,
            gone=tuple(entry.worker for entry in changed if not entry.live),
        )

    def export(self) -> MembershipState:
        return MembershipState(self.revision, self.entries())

    @classmethod
    def restored(
        cls, state: MembershipState, lease_seconds: float, recent_seconds: float | None = None
    ) -> Membership:
        """The table of an earlier process: everyone keeps the number, nobody is there yet."""
        table = cls(lease_seconds, recent_seconds)
        table.revision = state.revision + 1
        for entry in state.workers:
            gone: State = "left" if entry.live else entry.state
            table._put(
                msgspec.structs.replace(
                    entry, state=gone, seen_at=0.0, heartbeat=None, before=entry.totals
                )
            )
        return table

    def check_invariants(self) -> None:
        """Raises AssertionError if the table contradicts itself."""
        names = [entry.name for entry in self.entries()]
        assert len(set(names)) == len(names), f"a name is held twice: {names}"
        assert sorted(self._entries) == list(range(len(names))), "numbers have gaps"
        assert all(number == entry.worker for number, entry in self._entries.items())
        assert all(names), "a worker has no name"
        assert [self._numbers[name] for name in names] == sorted(self._entries)
        assert sorted(self._live) == [entry.worker for entry in self.entries() if entry.live]
        assert sum(map(len, self._incarnations.values())) == len(self._entries)
        assert all(
            self._entries[worker].incarnation == incarnation
            for incarnation, workers in self._incarnations.items()
            for worker in workers
        )

    def _put(self, entry: WorkerEntry) -> WorkerEntry:
        old = self._entries.get(entry.worker)
        if old is None or old.incarnation != entry.incarnation:
            if old is not None:
                self._incarnations[old.incarnation].remove(old.worker)
                if not self._incarnations[old.incarnation]:
                    del self._incarnations[old.incarnation]
            self._incarnations.setdefault(entry.incarnation, []).append(entry.worker)
            self._numbers[entry.name] = entry.worker
        self._entries[entry.worker] = entry
        return entry

    def _seen(self, entry: WorkerEntry) -> WorkerEntry:
        """A live worker showed that it is there."""
        self._live.pop(entry.worker, None)
        self._live[entry.worker] = None
        return self._put(entry)

    def _changed(self, entry: WorkerEntry) -> WorkerEntry:
        """Something about a worker that shards have to hear of."""
        self.revision += 1
        self._changed_at.pop(entry.worker, None)
        self._changed_at[entry.worker] = self.revision
        if not entry.live:
            self._live.pop(entry.worker, None)
        return self._put(entry)

    def _holder_of(self, wanted: str, incarnation: int) -> WorkerEntry | None:
        """Who joined under this incarnation and this name, or the name with a suffix."""
        for worker in self._incarnations.get(incarnation, ()):
            entry = self._entries[worker]
            if _is_variant(entry.name, wanted):
                return entry
        return None

    def _free_name(self, wanted: str, now: float) -> str:
        """`wanted`, or with the first suffix that no live worker holds."""
        count = 1
        while True:
            name = wanted if count == 1 else f"{wanted}-{count}"
            holder = self.named(name)
            if holder is None or not holder.live or now - holder.seen_at > self.recent_seconds:
                return name
            count += 1


def _member(entry: WorkerEntry) -> Member:
    return Member(entry.worker, entry.incarnation, entry.state == "idle")


def _is_variant(name: str, wanted: str) -> bool:
    base, _, count = name.rpartition("-")
    return name == wanted or (base == wanted and count.isdigit())
