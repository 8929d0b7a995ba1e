"""The table of workers: who is in, under which number, and until when.

A worker holds a lease that its heartbeats renew; one that is silent for longer is dead and holds
nobody back any more. How long that is follows from how regularly it is heard. A name keeps its
number for the whole run, also over a resume, so that data, figures and the order of workers stay
attached to the machine and not to the process.
"""

from __future__ import annotations

import itertools

import msgspec

from psedge.protocol.errors import RefusedError
from psedge.protocol.messages import Heartbeat, Place
from psedge.protocol.shards import Member, Members
from psedge.supervisor.detector import PhiAccrual, longest_lease, shortest_lease
from psedge.supervisor.worker_entry import MembershipState, State, Totals, WorkerEntry

__all__ = ["Membership", "MembershipState", "Totals", "WorkerEntry"]

#: Name of a worker that brings none.
DEFAULT_NAME = "worker"


class Membership:
    """All workers that ever joined this run.

    lease_seconds: silence after which a worker is dead; None: measured for each of them.
    recent_seconds: a name is given to a newcomer when its holder has been silent for this long,
    so that a restarted worker that cannot prove whose successor it is gets its name back before
    its old lease has run out; None: a third of the lease.
    heartbeat_seconds: between two signs of life, as workers are told.
    """

    def __init__(
        self,
        lease_seconds: float | None,
        recent_seconds: float | None = None,
        *,
        heartbeat_seconds: float = 1.0,
    ) -> None:
        #: The longest that any worker may be silent.
        self.lease_seconds = longest_lease(heartbeat_seconds, lease_seconds)
        self._fixed_seconds = lease_seconds
        self._recent_seconds = recent_seconds
        self._heartbeat_seconds = heartbeat_seconds
        #: Of the live workers.
        self._detectors: dict[int, PhiAccrual] = {}
        self.revision = 0
        self._entries: dict[int, WorkerEntry] = {}
        #: Numbers by name and by present incarnation.
        self._numbers: dict[str, int] = {}
        self._incarnations: dict[int, list[int]] = {}
        #: Numbers by the place that the worker joined from.
        self._places: dict[str, int] = {}
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
        process: int = 0,
        machine: str = "",
        place: Place | None = None,
    ) -> WorkerEntry:
        """Let a worker in and return its entry.

        The same name gets the same number. A name that a live other incarnation holds gets a
        suffix (`pi`, `pi-2`, ...), as do several machines that nobody gave a name. Whoever comes
        from the place of an earlier process gets the name of that one, which is dead, at once.
        Joining again under a live incarnation changes nothing: it is a retry after a lost reply.
        Raises RefusedError `unknown-worker` for an incarnation whose time is over, as when its
        join was not answered for longer than its lease: what the shards counted for it has been
        settled, and the worker comes again under another.
        """
        wanted = name or DEFAULT_NAME
        again = self._holder_of(wanted, incarnation)
        if again is not None:
            if not again.live:
                raise RefusedError(
                    "unknown-worker", f"worker {again.name} must join under a new incarnation"
                )
            return self._seen(msgspec.structs.replace(again, seen_at=now))
        entry = WorkerEntry(
            worker=len(self._entries),
            name=self._name_for(wanted, now, place),
            incarnation=incarnation,
            device=device,
            loader=loader,
            local_samples=local_samples,
            seen_at=now,
            process=process,
            machine=machine,
            place=None if self._is_outlived(place) else place,
        )
        old = self.named(entry.name)
        if old is not None:
            entry = msgspec.structs.replace(entry, worker=old.worker, before=old.totals)
        return self._changed(self._seen(entry))

    def predecessor(
        self, name: str, incarnation: int, now: float, place: Place | None = None
    ) -> WorkerEntry | None:
        """The worker, gone or taken for live, whose name `join` would give to a newcomer.

        What it holds has to be settled before.
        """
        wanted = name or DEFAULT_NAME
        if self._holder_of(wanted, incarnation) is not None:
            return None
        return self.named(self._name_for(wanted, now, place))

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

    def number_of(self, name: str, incarnation: int) -> int | None:
        """Of the worker that asked to join under this name and this incarnation."""
        entry = self._holder_of(name or DEFAULT_NAME, incarnation)
        return None if entry is None else entry.worker

    def expire(self, now: float) -> list[WorkerEntry]:
        """Declare dead whose lease ran out, and return them as they are now."""
        dead = []
        shortest = shortest_lease(self._fixed_seconds)
        for worker in self._live:
            entry = self._entries[worker]
            if now - entry.seen_at <= shortest:
                break
            if now - entry.seen_at > self.lease_of(worker):
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

    def lease_of(self, worker: int) -> float:
        """Seconds of silence after which a live worker is dead."""
        detector = self._detectors.get(worker)
        return self.lease_seconds if detector is None else detector.lease_seconds()

    def suspect(self, worker: int, now: float) -> bool:
        """Whether a live worker is silent for unusually long; nothing follows from that yet."""
        detector = self._detectors.get(worker)
        return detector is not None and detector.suspect(now)

    def forgive(self, seconds: float, now: float) -> None:
        """Nobody could have been heard for so long, since the supervisor itself was away."""
        for worker in self._live:
            entry = self._entries[worker]
            seen_at = max(min(entry.seen_at + seconds, now), entry.seen_at)
            self._entries[worker] = msgspec.structs.replace(entry, seen_at=seen_at)
            self._detectors[worker].forgive(seconds, now)

    def entry(self, worker: int, incarnation: int) -> WorkerEntry | None:
        """A live member, or None."""
        entry = self._entries.get(worker)
        if entry is None or entry.incarnation != incarnation or not entry.live:
            return None
        return entry

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
        changed = self.changed_since(since)
        return Members(
            revision=self.revision,
            members=tuple(_member(entry) for entry in changed if entry.live),
            since=since,
            gone=tuple(entry.worker for entry in changed if not entry.live),
        )

    def changed_since(self, revision: int) -> list[WorkerEntry]:
        """Entries, by number, that changed after a revision of this table."""
        latest = itertools.takewhile(
            lambda worker: self._changed_at[worker] > revision, reversed(self._changed_at)
        )
        return [self._entries[worker] for worker in sorted(latest)]

    def changed_at(self, worker: int) -> int:
        """The revision at which shards were last to hear of a worker."""
        return self._changed_at.get(worker, 0)

    def export(self) -> MembershipState:
        return MembershipState(self.revision, self.entries())

    @classmethod
    def restored(
        cls,
        state: MembershipState,
        lease_seconds: float | None,
        recent_seconds: float | None = None,
        *,
        heartbeat_seconds: float = 1.0,
        attached_at: float | None = None,
    ) -> Membership:
        """The table of an earlier process: everyone keeps the number.

        attached_at: now, where the run never stopped: whoever was live then is live still, and
        has a full lease from this moment. None: nobody is there yet.
        """
        table = cls(lease_seconds, recent_seconds, heartbeat_seconds=heartbeat_seconds)
        table.revision = state.revision + 1
        for entry in state.workers:
            if attached_at is not None and entry.live:
                # Whoever is out of data says so again.
                there = msgspec.structs.replace(entry, state="alive", seen_at=attached_at)
                table._seen(there)
                continue
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
        assert self._detectors.keys() == self._live.keys(), "who is live is not who is watched"
        assert sum(map(len, self._incarnations.values())) == len(self._entries)
        places = {
            entry.place.identity: entry.worker
            for entry in self.entries()
            if entry.place is not None
        }
        assert self._places == places, "a place is not its latest holder's"
        assert all(
            self._entries[worker].incarnation == incarnation
            for incarnation, workers in self._incarnations.items()
            for worker in workers
        )

    def _put(self, entry: WorkerEntry) -> WorkerEntry:
        old = self._entries.get(entry.worker)
        if old is None or old.incarnation != entry.incarnation:
            self._detectors.pop(entry.worker, None)
            if old is not None:
                if old.place is not None:
                    del self._places[old.place.identity]
                self._incarnations[old.incarnation].remove(old.worker)
                if not self._incarnations[old.incarnation]:
                    del self._incarnations[old.incarnation]
            self._incarnations.setdefault(entry.incarnation, []).append(entry.worker)
            self._numbers[entry.name] = entry.worker
            if entry.place is not None:
                self._places[entry.place.identity] = entry.worker
        self._entries[entry.worker] = entry
        return entry

    def _seen(self, entry: WorkerEntry) -> WorkerEntry:
        """A live worker showed that it is there."""
        self._live.pop(entry.worker, None)
        self._live[entry.worker] = None
        self._put(entry)
        detector = self._detectors.get(entry.worker)
        if detector is None:
            self._detectors[entry.worker] = PhiAccrual(
                entry.seen_at, self._heartbeat_seconds, self._fixed_seconds
            )
        else:
            detector.heard(entry.seen_at)
        return entry

    def _changed(self, entry: WorkerEntry) -> WorkerEntry:
        """Something about a worker that shards have to hear of."""
        self.revision += 1
        self._changed_at.pop(entry.worker, None)
        self._changed_at[entry.worker] = self.revision
        if not entry.live:
            self._live.pop(entry.worker, None)
            self._detectors.pop(entry.worker, None)
        return self._put(entry)

    def _holder_of(self, wanted: str, incarnation: int) -> WorkerEntry | None:
        """Who joined under this incarnation and this name, or the name with a suffix."""
        for worker in self._incarnations.get(incarnation, ()):
            entry = self._entries[worker]
            if _is_variant(entry.name, wanted):
                return entry
        return None

    def _holder_at(self, place: Place | None) -> WorkerEntry | None:
        """Who joined from this place last."""
        worker = None if place is None else self._places.get(place.identity)
        return None if worker is None else self._entries[worker]

    def _is_outlived(self, place: Place | None) -> bool:
        """Whether a later process has the place: a request that came late proves nothing."""
        holder = self._holder_at(place)
        if holder is None or holder.place is None or place is None:
            return False
        return holder.place.holder > place.holder

    def _name_for(self, wanted: str, now: float, place: Place | None) -> str:
        holder = None if self._is_outlived(place) else self._holder_at(place)
        return self._free_name(wanted, now) if holder is None else holder.name

    def _free_name(self, wanted: str, now: float) -> str:
        """`wanted`, or with the first suffix that no live worker holds."""
        count = 1
        while True:
            name = wanted if count == 1 else f"{wanted}-{count}"
            holder = self.named(name)
            if holder is None or not holder.live or now - holder.seen_at > self._recent_of(holder):
                return name
            count += 1

    def _recent_of(self, entry: WorkerEntry) -> float:
        recent = self._recent_seconds
        return self.lease_of(entry.worker) / 3 if recent is None else recent


def _member(entry: WorkerEntry) -> Member:
    return Member(entry.worker, entry.incarnation, entry.state == "idle")


def _is_variant(name: str, wanted: str) -> bool:
    base, _, count = name.rpartition("-")
    return name == wanted or (base == wanted and count.isdigit())
