"""Checkers over shards and workers that a test moves by hand, without a virtual world."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
from shard_cluster import assignment, payload, vector
from tiny_cluster import HOME
from worker_bench import Bench

from psedge.protocol.shards import Member, Members, ShardState, SyncSettings
from psedge.server.push import Outcome, Push
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
    """One shard, its members, and checkpoints of it."""

    def __init__(self, mode: Any = "asp", workers: int = 2, **sync: Any) -> None:
        super().__init__()
        self.assignment = assignment(SyncSettings(mode, **sync))
        self.members = {worker: Member(worker, 1) for worker in range(workers)}
        self.revision = 0
        self.sequences: dict[tuple[int, int], int] = {}
        self.host = "server-0"
        self.shard = self.made(self.host)
        self.tell()

    def made(self, host: str, saved: tuple[ShardState, dict[str, Any]] | None = None) -> Shard:
        """A shard on a host, fresh or restored."""
        of_host = watched_shard(self.watch, host)
        if saved is None:
            shard = of_host(self.assignment, vector(0.0, 0.0), vector(0.0), b"\x00")
        else:
            shard = of_host.restored(self.assignment, *saved)
        self.watch.tell("shard_made", host, shard, None if saved is None else saved[0])
        return shard

    def tell(self) -> None:
        self.revision += 1
        self.shard.set_members(Members(self.revision, tuple(self.members.values())))

    def next_push(self, worker: int, *gradient: float, **further: Any) -> Push:
        key = (worker, self.members[worker].incarnation)
        self.sequences[key] = self.sequences.get(key, 0) + 1
        values = gradient or (1.0, 2.0)
        push = Push(*key, self.sequences[key], self.shard.version, 1, payload(*values))
        return msgspec.structs.replace(push, **further)

    def push(self, worker: int, *gradient: float, **further: Any) -> Outcome:
        return self.shard.push(self.next_push(worker, *gradient, **further))

    def checkpoint(self) -> tuple[ShardState, dict[str, Any]]:
        """As it lies on a disk."""
        state, arrays = self.shard.state()
        return state, {name: array.copy() for name, array in arrays.items()}

    def crash(self) -> None:
        self.watch.tell("host_gone", self.host)

    def end(self, phase: str) -> None:
        """The run of a supervisor without a data plan."""
        supervisor: Any = SimpleNamespace(state=SimpleNamespace(plan=None))
        self.watch.tell("run_ended", self.host, supervisor, SimpleNamespace(phase=phase))


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
