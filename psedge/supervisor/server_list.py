"""The server processes of a run: their numbers, when they were heard, what proves them dead.

A number belongs to one incarnation for the whole run, so a server that was started anew is another
one, and proves by its address or by its folder that the one before it is dead.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from psedge.protocol.messages import Register
from psedge.protocol.replicas import ReplicaState
from psedge.protocol.shards import ServerReport
from psedge.supervisor.detector import PhiAccrual, longest_lease
from psedge.supervisor.shard_table import ServerRecord

#: A granted lease counts as ended only after this much more, in lease lengths: the server's clock
#: may run slower than this one.
CLOCK_DRIFT = 0.05


@dataclass(slots=True)
class ServerEntry:
    """One registered server process.

    shards: of which it is the primary, as workers are told. attached: it has spoken to this
    supervisor; False: only to one before it. gone: its process is proven dead, `proof` says how.
    dead: gone, or silent for longer than its lease. forgotten: an earlier supervisor needed it no
    more, and nothing but its number is known. granted_until: when the last lease that it was
    given has certainly ended. attached_at: since when it has spoken to this supervisor.
    keeps: copies as it last told of them, by shard. trouble: as in `ServerReport`. revision: of the
    members that its shards have; -1: of none.
    """

    server: int
    url: str
    incarnation: int
    detector: PhiAccrual
    shards: list[int] = field(default_factory=list)
    report: ServerReport | None = None
    dead: bool = False
    gone: bool = False
    proof: str = ""
    forgotten: bool = False
    attached: bool = True
    #: It has heard that the run has ended.
    told: bool = False
    revision: int = -1
    #: Lossless stages that it can undo.
    lossless: tuple[str, ...] = ()
    store: str = ""
    process: int = 0
    machine: str = ""
    granted_until: float = 0.0
    attached_at: float = 0.0
    keeps: dict[int, ReplicaState] = field(default_factory=dict)
    trouble: str = ""

    def record(self) -> ServerRecord:
        return ServerRecord(self.server, self.url, self.incarnation, self.store, self.lossless)

    def heard(self, now: float) -> None:
        """It is there, whatever seemed to prove the contrary."""
        self.detector.heard(now)
        self.dead = self.gone = False
        self.proof = ""

    def take_replicas(self, replicas: Iterable[ReplicaState]) -> None:
        self.keeps = {replica.shard: replica for replica in replicas}

    def grant(self, now: float) -> float:
        """Give it a lease from now on; returns its length in seconds."""
        lease = self.detector.lease_seconds()
        self.granted_until = max(self.granted_until, now + lease * (1 + CLOCK_DRIFT))
        return lease

    def prove_gone(self, proof: str) -> None:
        self.gone = self.dead = True
        self.proof = proof


class ServerList:
    """All of them, in the order in which they registered, which is that of their numbers."""

    def __init__(self, heartbeat_seconds: float = 1.0, lease_seconds: float | None = None) -> None:
        """lease_seconds: silence that kills, where it is fixed; None: measured for each."""
        self.entries: list[ServerEntry] = []
        self.heartbeat_seconds = heartbeat_seconds
        self._fixed = lease_seconds

    @property
    def longest_lease(self) -> float:
        return longest_lease(self.heartbeat_seconds, self._fixed)

    def restore(self, records: Iterable[ServerRecord], now: float) -> None:
        """Those of an earlier supervisor, which may have granted each the longest lease."""
        for record in sorted(records, key=lambda record: record.server):
            while len(self.entries) < record.server:
                gap = self._made("", -1 - len(self.entries), now)
                gap.prove_gone("another process has taken its place")
                gap.forgotten, gap.attached = True, False
            entry = self._made(record.url, record.incarnation, now)
            entry.store, entry.lossless = record.store, record.lossless
            entry.attached = False
            entry.granted_until = now + self.longest_lease * (1 + CLOCK_DRIFT)

    def known(self, incarnation: int) -> ServerEntry | None:
        for entry in self.entries:
            if entry.incarnation == incarnation:
                return entry
        return None

    def find(self, server: int, incarnation: int) -> ServerEntry | None:
        """By number, unless that is another process by now."""
        if not 0 <= server < len(self.entries):
            return None
        entry = self.entries[server]
        return entry if entry.incarnation == incarnation else None

    def register(self, message: Register, peer: str, now: float) -> ServerEntry:
        """Take in a server, or recognise it by its incarnation.

        peer: the host its request came from, used where it listens on every address.
        """
        entry = self.known(message.incarnation)
        if entry is None:
            entry = self._made(url_of(message, peer), message.incarnation, now)
        else:
            entry.heard(now)
        if not entry.attached:
            entry.attached_at = now
        for other in self.entries[: entry.server]:
            if other.url == entry.url and not other.gone:
                other.prove_gone(f"it was started anew, for another process answers at {entry.url}")
        entry.lossless, entry.store = message.lossless, message.store
        entry.process, entry.machine = message.process, message.machine
        entry.attached = True
        entry.take_replicas(message.replicas)
        return entry

    def rivals(self, message: Register, peer: str) -> list[ServerEntry]:
        """Other processes, not proven dead, that keep their logs in the same folder."""
        url = url_of(message, peer)
        return [
            entry
            for entry in self.entries
            if message.store
            and entry.store == message.store
            and entry.incarnation != message.incarnation
            and entry.url != url
            and not entry.gone
        ]

    def successor(self, entry: ServerEntry) -> ServerEntry | None:
        """The process that took over the folder of a dead one: the latest that did."""
        if not entry.store or not entry.dead:
            return None
        for other in reversed(self.entries):
            if other.store == entry.store and other is not entry and not other.dead:
                return other
        return None

    def displaced_seconds(self, entry: ServerEntry, now: float) -> float:
        """For how long another process, with another folder, has answered where the folder of a
        dead one was kept last; 0 if none does."""
        last = [other for other in self.entries if other.store == entry.store][-1]
        for other in reversed(self.entries[last.server + 1 :]):
            if other.url == last.url and other.store and other.attached and not other.dead:
                return now - other.attached_at
        return 0.0

    def expire(self, now: float) -> list[ServerEntry]:
        """Note who is dead, and return them."""
        for entry in self.entries:
            entry.dead = entry.gone or entry.detector.dead(now)
        return [entry for entry in self.entries if entry.dead and not entry.forgotten]

    def forgive(self, seconds: float, now: float) -> None:
        """Nobody could have been heard for so long, since the supervisor itself was away."""
        for entry in self.entries:
            entry.attached_at = min(entry.attached_at + seconds, max(now, entry.attached_at))
            entry.detector.forgive(seconds, now)

    def live(self) -> list[ServerEntry]:
        """Those that may be given something to do."""
        return [entry for entry in self.entries if not entry.dead and entry.attached]

    def lasting(self, held: Container[int]) -> list[ServerEntry]:
        """Without those who are gone for good: others have taken over their folders, or their
        addresses where they had none. held: numbers of those that have a part in a shard."""
        latest = {entry.store or entry.url: entry.server for entry in self.entries}
        return [
            entry
            for entry in self.entries
            if not entry.gone
            or entry.server in held
            or (not entry.forgotten and latest[entry.store or entry.url] == entry.server)
        ]

    def records(self, held: Container[int]) -> tuple[ServerRecord, ...]:
        """What the next supervisor has to know; numbers that are left out are not used again.

        held: as for `lasting`.
        """
        return tuple(entry.record() for entry in self.lasting(held))

    def check_invariants(self) -> None:
        """Raise AssertionError if the list contradicts itself."""
        assert [entry.server for entry in self.entries] == list(range(len(self.entries)))
        incarnations = [entry.incarnation for entry in self.entries]
        assert len(set(incarnations)) == len(incarnations), "a server is registered twice"
        assert all(entry.dead for entry in self.entries if entry.gone)

    def _made(self, url: str, incarnation: int, now: float) -> ServerEntry:
        detector = PhiAccrual(now, self.heartbeat_seconds, self._fixed)
        entry = ServerEntry(len(self.entries), url, incarnation, detector, attached_at=now)
        self.entries.append(entry)
        return entry


def url_of(message: Register, peer: str) -> str:
    """Where a server that registers is reached."""
    host = peer if message.host in ("0.0.0.0", "::", "") else message.host  # noqa: S104
    bracketed = f"[{host}]" if ":" in host else host
    return f"http://{bracketed}:{message.port}"


def lossless_of_all(entries: Sequence[ServerEntry]) -> tuple[str, ...]:
    """Lossless stages that every one of them can undo, as the first one names them."""
    if not entries:
        return ()
    first, *others = entries
    return tuple(name for name in first.lossless if all(name in each.lossless for each in others))
