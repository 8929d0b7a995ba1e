"""Checkers over shards and workers that a test moves by hand, without a virtual world."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
from shard_cluster import assignment, frame_of, payload, vector
from tiny_cluster import HOME
from worker_bench import Bench

from psedge.protocol.bundle import pack, unpack
from psedge.protocol.replicas import Append, Peer, Reign
from psedge.protocol.shards import Member, Members, ShardOrder, ShardState, SyncSettings
from psedge.protocol.status import Event
from psedge.protocol.wire import Header, Kind
from psedge.server.push import Outcome, Push
from psedge.server.replica import Replica, replica_of
from psedge.server.shard import Shard
from psedge.simulation.checkers import CHECKERS
from psedge.simulation.trace import Trace
from psedge.simulation.watch import Watch, WatchedService, watched_session, watched_shard
from psedge.worker.control import SupervisorClient
from psedge.worker.session import Identity, Session


class Checked:
    """All checkers behind one watch. now: virtual seconds, for a test to set."""

    def __init__(self) -> None:
        self.now = 0.0
        self.watch = Watch(
            lambda: self.now,
            CHECKERS,
            joined=lambda host: None,
            pushed=lambda host, began: None,
            applied=lambda: None,
            snapped=lambda: None,
        )

    def found(self, invariant: int | None = None) -> list[str]:
        """What was violated since the last call, of one invariant or of any."""
        taken = [one for one in self.watch.violations if invariant in (None, one.invariant)]
        self.watch.violations.clear()
        return [f"{one.invariant} {one.node}: {one.text}" for one in taken]


class ShardRig(Checked):
    """One shard on one server, its members, and checkpoints of it; copies on other servers."""

    def __init__(self, mode: Any = "asp", workers: int = 2, **sync: Any) -> None:
        super().__init__()
        self.assignment = assignment(SyncSettings(mode, **sync))
        self.members = {worker: Member(worker, 1) for worker in range(workers)}
        self.revision = 0
        self.term = self.reigns = 0
        self.sequences: dict[tuple[int, int], int] = {}
        self.journal: list[Event] = []
        self.note("start", "afresh")
        self.host = "server-0"
        self.replica = self.made(self.host)
        self.tell()

    @property
    def shard(self) -> Shard:
        return self.replica.shard

    def made(self, host: str, saved: tuple[ShardState, dict[str, Any]] | None = None) -> Replica:
        """The primary of a new term on a host, fresh or from a checkpoint."""
        of_host = watched_shard(self.watch, host)
        if saved is None:
            shard = of_host(self.assignment, vector(0.0, 0.0), vector(0.0), b"\x00")
        else:
            shard = of_host.restored(self.assignment, *saved)
        return self.reigning(host, Replica(shard, server_of(host), keeps=True), "assigned")

    def reigning(self, host: str, replica: Replica, what: str = "promoted") -> Replica:
        """Begin a new term, and serve."""
        self.term += 1
        self.reigns += 1
        replica.follow(Reign(0, self.term, self.reigns, Peer(replica.server, "")))
        self.serve(host, replica)
        self.watch.tell("replica_changed", host, replica, what)
        return replica

    def serve(self, host: str, replica: Replica) -> None:
        """A server process that holds this copy."""
        hosted = SimpleNamespace(
            replica=replica, shard=replica.shard, check_invariants=lambda: None,
            receive_buffers=[], lent_buffers=[], waiting={}, unacknowledged=[],
        )  # fmt: skip
        self.watch.tell("server_opened", host, SimpleNamespace(hosted={0: hosted}))

    def copied(self, host: str, replica: Replica | None = None) -> Replica:
        """A backup on another host, made of an image of the primary's."""
        replica = replica or self.replica
        self.reigns += 1
        assert replica.reign is not None
        replica.follow(
            msgspec.structs.replace(
                replica.reign, revision=self.reigns, backups=(Peer(server_of(host), ""),)
            )
        )
        order, arrays = unpack(pack(*replica.order()), ShardOrder)
        of_host = watched_shard(self.watch, host)
        entries = replica.entries_after(order.at, 10**9) or []
        copy = replica_of(order, arrays, entries, server_of(host), of_host)
        assert replica.reign is not None
        copy.follow(replica.reign)
        self.serve(host, copy)
        self.watch.tell("replica_changed", host, copy, "installed")
        return copy

    def forward(self, host: str, copy: Replica) -> None:
        """What the primary has and a backup lacks."""
        entries = self.replica.entries_after(copy.at, 10**9) or []
        _, applied = copy.append(Append(0, self.replica.term, copy.at), entries)
        self.watch.tell("entries_applied", host, copy, applied)

    def tell(self) -> None:
        self.revision += 1
        self.replica.set_members(Members(self.revision, tuple(self.members.values())))

    def next_push(self, worker: int, *gradient: float, **further: Any) -> Push:
        key = (worker, self.members[worker].incarnation)
        self.sequences[key] = self.sequences.get(key, 0) + 1
        values = gradient or (1.0, 2.0)
        push = Push(*key, self.sequences[key], self.shard.version, 1, payload(*values))
        return msgspec.structs.replace(push, **further)

    def push(self, worker: int, *gradient: float, **further: Any) -> Outcome:
        """Taken and acknowledged."""
        push = self.next_push(worker, *gradient, **further)
        outcome = self.take(push)
        self.answer(push, outcome)
        return outcome

    def take(self, push: Push, replica: Replica | None = None) -> Outcome:
        """A push arrives at a primary."""
        replica = replica or self.replica
        return replica.push(push, (_frame(push),))[0]

    def answer(self, push: Push, outcome: Outcome, replica: Replica | None = None) -> None:
        """A server tells the worker."""
        replica = replica or self.replica
        header = Header(
            Kind.REPLY, 0, push.worker, push.incarnation,
            term=replica.term, sequence=push.sequence, status=outcome.status,
        )  # fmt: skip
        self.watch.tell("push_answered", f"server-{replica.server}", replica, header)

    def checkpoint(self) -> tuple[ShardState, dict[str, Any]]:
        """As it lies on a disk."""
        state, arrays = self.shard.state()
        return state, {name: array.copy() for name, array in arrays.items()}

    def crash(self, host: str = "") -> None:
        self.watch.host_gone(host or self.host)

    def note(self, decision: str, reason: str = "", subject: str = "run") -> None:
        """The supervisor's journal."""
        kind = "shard" if subject.startswith("shard") else "run"
        event = Event(len(self.journal), self.now, kind, subject, decision, reason)
        self.journal.append(event)

    def end(self, phase: str) -> None:
        """The run of a supervisor without a data plan."""
        journal = SimpleNamespace(latest=lambda most: tuple(self.journal))
        supervisor: Any = SimpleNamespace(state=SimpleNamespace(plan=None, journal=journal))
        self.watch.tell("run_ended", self.host, supervisor, SimpleNamespace(phase=phase))


def server_of(host: str) -> int:
    return int(host.removeprefix("server-"))


def _frame(push: Push) -> bytes:
    gradient = None
    if push.opened is not None:
        gradient = np.zeros(push.opened.piece.elements, np.float32)
        push.opened.decode(gradient)
    return frame_of(
        push.worker, push.incarnation, push.sequence, push.version, push.samples, gradient
    )


class WorkerRig(Checked):
    """A tiny cluster whose servers and workers are watched."""

    def __init__(self, width: int = 200, **options: Any) -> None:
        super().__init__()
        self.bench = Bench(width, **options)
        self.trace = Trace(lambda: self.now)
        cluster = self.bench.cluster
        cluster.services = [
            WatchedService(self.bench.clock, self.watch, self.trace, f"server-{index}", {})
            for index in range(len(cluster.services))
        ]
        for url, service in zip(cluster.urls, cluster.services, strict=True):
            cluster.network.routes[url].update(service.routes())

    async def session(self, name: str = "pi", incarnation: int = 100) -> Session:
        bench = self.bench
        if not bench.cluster.shards():
            await bench.cluster.start()
        network = bench.cluster.network
        session = watched_session(self.watch, self.trace, name, {})(
            network,
            bench.clock,
            SupervisorClient(network, bench.clock, HOME, bench.notes.append),
            bench.binding(),
            Identity(name, "test", incarnation, loader=False),
            bench.notes.append,
        )
        await session.start(bench.cluster.experiment())
        return session
