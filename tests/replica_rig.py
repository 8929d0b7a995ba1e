"""Copies of a shard on several servers, and workers, without network and without time.

The rig is supervisor and network at once: it says who reigns, carries messages when a test wants
it to, and keeps a book of what was acknowledged to whom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from shard_cluster import assignment, frame_of, pushed, vector

from psedge.protocol.bundle import pack, unpack
from psedge.protocol.errors import RefusedError
from psedge.protocol.log_entry import Entry, decode_entries, encode_entry
from psedge.protocol.replicas import Append, Appended, Peer, Position, Reign
from psedge.protocol.shards import (
    GroupSettings,
    LogSettings,
    Member,
    Members,
    OptimizerSettings,
    ScheduleSettings,
    ShardOrder,
    SyncSettings,
)
from psedge.protocol.wire import HEADER_BYTES
from psedge.server.replica import Replica, replica_of
from psedge.server.shard import Outcome, Shard

MOMENTUM = OptimizerSettings("sgd", (GroupSettings(lr=0.1, momentum=0.9, weight_decay=0.01),))
ALL = 10**9


def peer(server: int) -> Peer:
    return Peer(server, f"http://server-{server}:7700")


def reign(
    term: int,
    revision: int,
    primary: int,
    backups: tuple[int, ...] = (),
    learners: tuple[int, ...] = (),
    acks: Any = "replica",
) -> Reign:
    return Reign(
        0,
        term,
        revision,
        peer(primary),
        tuple(map(peer, backups)),
        tuple(map(peer, learners)),
        acks,
    )


def fresh_shard(mode: Any = "asp", digest_every: int = 7, **further: Any) -> Shard:
    plan = msgspec.structs.replace(
        assignment(SyncSettings(mode, **further), MOMENTUM, ScheduleSettings("cosine", total=4000)),
        log=LogSettings(digest_every=digest_every),
    )
    return Shard(plan, vector(1.0, -1.0), vector(0.5), b"\x00")


def carried(order: ShardOrder, arrays: dict[str, Any]) -> tuple[ShardOrder, dict[str, Any]]:
    """An image as it arrives at another server."""
    return unpack(pack(order, arrays), ShardOrder)


def delivered(entries: list[Entry]) -> list[Entry]:
    """Entries as they arrive at another server."""
    parts = [part for entry in entries for part in encode_entry(entry)]
    return list(decode_entries(memoryview(b"".join(parts))))


def twin_of(replica: Replica, server: int = 99) -> Replica:
    """A copy made of an image and what follows it."""
    order, arrays = carried(*replica.order())
    entries = replica.entries_after(order.at, ALL)
    assert entries is not None
    return replica_of(order, arrays, delivered(entries), server)


@dataclass
class Worker:
    """incarnation, idle: as the supervisor knows it. samples: of all its pushes. waits_for: the
    index that its latest push, `frame`, needs; None once it is acknowledged.
    """

    incarnation: int
    idle: bool = False
    sequence: int = 0
    samples: int = 0
    frame: bytes = b""
    waits_for: int | None = None


class Copies:
    """Servers 0, 1, ... of which the reign says what each is."""

    def __init__(
        self, mode: Any = "asp", servers: int = 2, acks: Any = "replica", **further: Any
    ) -> None:
        self.acks = acks
        first = Replica(fresh_shard(mode, **further), 0, keeps=False)
        self.replicas = {0: first}
        self.reign = reign(1, 1, 0, learners=tuple(range(1, servers)), acks=acks)
        self.primary.follow(self.reign)
        self.positions: dict[int, Position] = {}
        self.workers: dict[int, Worker] = {}
        self.revision = 0
        self.now = 0.0
        for server in range(1, servers):
            self.install(server)
            self.admit(server)

    @property
    def primary(self) -> Replica:
        return self.replicas[self.reign.primary.server]

    @property
    def learners(self) -> list[int]:
        return [peer.server for peer in self.reign.learners]

    @property
    def backups(self) -> list[int]:
        return [peer.server for peer in self.reign.backups]

    def change(self, **fields: Any) -> None:
        """A further reign of the same term, which all copies hear of."""
        fields = {name: tuple(map(peer, servers)) for name, servers in fields.items()}
        self.reign = msgspec.structs.replace(self.reign, revision=self.reign.revision + 1, **fields)
        for replica in self.replicas.values():
            if replica.term <= self.reign.term:
                replica.follow(self.reign)

    def install(self, server: int) -> None:
        """Send an image, unless it has to wait for the end of a round."""
        if refusal_of(self.primary.order) == "not-ready":
            return
        order, arrays = carried(*self.primary.order())
        replica = replica_of(order, arrays, (), server, keeps=False)
        assert order.reign is not None
        replica.follow(order.reign)
        self.replicas[server] = replica
        self.positions[server] = order.at
        self.primary.heard(server, order.at)

    def admit(self, server: int) -> None:
        """Ask for a learner to be admitted, unless it is too early."""
        if not self.primary.admitting(server):
            return
        self.change(
            backups=(*self.backups, server),
            learners=tuple(one for one in self.learners if one != server),
        )

    def send(self, server: int, limit: int = ALL, lost: bool = False) -> Appended | None:
        """One message to a peer; with `lost` its answer does not come back. None: not reached."""
        at = self.positions.get(server, self.primary.at)
        entries = self.primary.entries_after(at, limit)
        if entries is None:
            self.install(server)
            return None
        message = Append(0, self.primary.term, at)
        answer, taken = self.replicas[server].append(message, delivered(entries))
        assert [one.index for one in taken] == sorted(one.index for one in taken)
        if answer.outcome == "differs":
            self.install(server)
        elif not lost:
            self.positions[server] = answer.at
            self.primary.heard(server, answer.at)
        return answer

    def send_all(self) -> None:
        for server in (*self.backups, *self.learners):
            while self.send(server) is None or self.primary.lacks(server):
                pass

    def tell(self) -> None:
        members = (
            Member(worker, one.incarnation, one.idle) for worker, one in self.workers.items()
        )
        self.primary.set_members(Members(self.revision, tuple(members)))

    def join(self, worker: int) -> None:
        self.revision += 1
        self.workers[worker] = Worker(self.revision)
        self.tell()

    def push(
        self, worker: int, gradient: float, lag: int = 0, left_out: bool = False, **fields: Any
    ) -> Outcome:
        """The worker's next push. lag: of the parameters that it was computed on."""
        one = self.workers[worker]
        one.sequence += 1
        one.samples += one.sequence + worker
        one.frame = frame_of(
            worker,
            one.incarnation,
            one.sequence,
            max(0, self.primary.shard.version - lag),
            one.sequence + worker,
            None if left_out else vector(gradient, -2.0 * gradient),
            **fields,
        )
        return self.send_push(worker)

    def send_push(self, worker: int) -> Outcome:
        """The worker's latest push, perhaps not for the first time."""
        one, primary = self.workers[worker], self.primary
        push = pushed(one.frame, primary.shard)
        outcome, index, _ = primary.push(push, [one.frame[:HEADER_BYTES], one.frame[HEADER_BYTES:]])
        one.waits_for = index
        return outcome

    def acknowledge(self) -> None:
        """Tell the workers whose pushes are acknowledged."""
        upto = self.primary.acknowledged(self.now)
        for one in self.workers.values():
            if one.waits_for is not None and one.waits_for <= upto:
                one.waits_for = None

    def fail_over(self) -> int:
        """The primary is gone; returns the server that it was."""
        lost = self.reign.primary.server
        term = self.reign.term + 1
        for server in self.backups:
            self.replicas[server].seal(term)
        best = max(self.backups, key=lambda server: self.replicas[server].state(0.0).at)
        rest = tuple(one for one in (*self.backups, *self.learners) if one != best)
        self.reign = reign(term, self.reign.revision + 1, best, learners=rest, acks=self.acks)
        self.positions.clear()
        for server in (best, *rest):
            self.replicas[server].follow(self.reign)
        self.tell()
        for worker, one in self.workers.items():
            if one.waits_for is not None:
                self.send_push(worker)
        return lost

    def check(self) -> None:
        """Copies at one place are equal, and none contradicts itself."""
        for replica in self.replicas.values():
            replica.check_invariants()
        primary = self.primary
        for server in (*self.backups, *self.learners):
            replica = self.replicas[server]
            if replica.at == primary.at:
                assert_equal(replica, primary)

    def check_acknowledged(self) -> None:
        """Every push that its worker was told of is in the primary, once."""
        for worker, one in self.workers.items():
            if one.waits_for is None and one.sequence:
                again = pushed(one.frame, self.primary.shard)
                before = self.primary.shard.taken
                self.primary.shard.push(again)
                assert self.primary.shard.taken == before, f"worker {worker} has lost a push"


def assert_equal(one: Replica, other: Replica) -> None:
    """Bit for bit, and in all that it says."""
    assert one.at == other.at
    assert one.shard.digest() == other.shard.digest()
    assert one.shard.report() == other.shard.report()
    assert one.shard.summary() == other.shard.summary()
    assert one.shard.members == other.shard.members
    assert one.shard.published().tobytes() == other.shard.published().tobytes()
    first, second = one.shard.arrays(), other.shard.arrays()
    assert {name: array.tobytes() for name, array in first.items()} == {
        name: array.tobytes() for name, array in second.items()
    }


def refusal_of(call: Any, *things: Any) -> str:
    """The code with which a call is refused."""
    try:
        call(*things)
    except RefusedError as error:
        return error.code
    return ""
