"""The virtual world of one run: its hosts, its network, who starts and stops what.

It is what faults act on, and the operator who looks after the cluster: a server whose process has
ended is started again, and a run that failed goes on from its last checkpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import replace
from typing import Any

import msgspec

from psedge.config import Experiment
from psedge.protocol.address import DEFAULT_PORT, Address, url_of
from psedge.protocol.errors import PsedgeError
from psedge.simulation import nodes
from psedge.simulation.checkers.checker import Checker
from psedge.simulation.clock import VirtualClock
from psedge.simulation.devices import Device
from psedge.simulation.disk import VirtualDisk
from psedge.simulation.faults.kinds import Fault, HalfOpen, Partition, Reset
from psedge.simulation.host import Host, Kind
from psedge.simulation.loop import VirtualLoop
from psedge.simulation.network.network import Network
from psedge.simulation.placement import (
    Place,
    hosts_of,
    server_places,
    supervisor_places,
    worker_places,
)
from psedge.simulation.process import Process
from psedge.simulation.recovery import Recoveries
from psedge.simulation.seeds import seed_of
from psedge.simulation.trace import Trace
from psedge.simulation.watch import Watch
from psedge.simulation.work import Work
from psedge.supervisor.run_rows import Row, rows_of

#: How long the operator takes to start again what has ended without being asked to.
OPERATOR_SECONDS = 5.0
#: How long the operator leaves a run alone that waits for servers.
PATIENCE_SECONDS = 120.0
#: Name of a run whose experiment has none.
RUN = "simulated"
#: A run that fails more often is given up.
RESUMES_LIMIT = 20


class World:
    """Made within a running VirtualLoop; `boot` switches everything on.

    event: told of what faults may wait for, such as `checkpoint 3`. over: set when the run has come
    to an end that the operator accepts. failure: a bug that ended a process. last_words: why the
    latest process of the first server ended with an error.
    """

    def __init__(
        self,
        experiment: Experiment,
        work: Work,
        seed: int,
        trace: Trace,
        checkers: list[type[Checker]],
    ) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.experiment = experiment
        self.work = work
        self.seed = seed
        self.trace = trace
        self.event: Callable[[str], None] = lambda text: None
        self.over = asyncio.Event()
        self.failure: Exception | None = None
        self.last_words = ""
        self.network = Network(trace, seed_of(seed, "network"))
        self.recoveries = Recoveries()
        #: Of metrics.jsonl, with virtual seconds as their timestamps.
        self.rows: list[Row] = []
        #: Host of each worker, by the number that the supervisor gave it.
        self.worker_hosts: dict[int, str] = {}
        self.watch = Watch(
            loop.time,
            checkers,
            joined=self._joined,
            pushed=self._pushed,
            applied=self._applied,
            snapped=self._snapped,
        )
        self._loop = loop
        self._counts = {"push": 0, "snapshot": 0, "checkpoint": 0}
        self._resumes = 0
        #: The operator has stopped the run, to resume it from its checkpoint.
        self._giving_up = False
        self._first_started_at = 0.0
        self._hosts: dict[str, Host] = {}
        places: dict[Kind, tuple[Place, ...]] = {
            "supervisor": supervisor_places(experiment.cluster),
            "server": server_places(experiment.cluster),
            "worker": worker_places(experiment.cluster),
        }
        for kind, its in places.items():
            for index, place in enumerate(its):
                self._add(place, index, kind)
        #: Roles that move are resolved when a fault strikes.
        self.hosts = replace(hosts_of(experiment.cluster), holders=self.watch.holders)
        self.home = Address(url_of(self.first.name, DEFAULT_PORT))

    def each(self) -> list[Host]:
        """All hosts, the servers first."""
        return list(self._hosts.values())

    @property
    def pushes(self) -> int:
        """That shard 0 took, by all its servers."""
        return self._counts["push"]

    def host(self, name: str) -> Host:
        return self._hosts[name]

    @property
    def first(self) -> Host:
        """The host of the supervisor."""
        return self._hosts[self.hosts.supervisor]

    def boot(self) -> None:
        """Start every host at its time, and let its schedule take its course."""
        for host in self.each():
            place = host.place
            self._later(place.joins_at, self.start, host.name)
            if place.leaves_at is not None:
                self._later(place.leaves_at, self._scheduled, host.name, "leaves", self.leave)
            for slow in place.slows:
                text = f"{slow.factor:g} times slower"
                self._later(slow.at, self._scheduled, host.name, text, self._pace, slow.factor)
                if slow.until is not None:
                    text = "as fast as before"
                    self._later(slow.until, self._scheduled, host.name, text, self._pace, 1.0)

    def start(self, host: str) -> None:
        """Switch the host on if it is off, and start its process if it has none.

        Nothing happens once the run is over: nobody would know what to make of another one.
        """
        found = self._hosts[host]
        if self.over.is_set():
            return
        if found.off:
            found.off = False
            self.network.host_revived(host)
        if found.running:
            found.wanted = found.leaving
            return
        found.starts += 1
        if found is self.first:
            self._first_started_at = self._loop.time()
        found.wanted = False
        found.leaving = False
        found.supervisor, found.program = None, None
        found.process = Process(host, found.starts)
        found.task = found.process.run(self._life(found, found.process))
        self.trace.record("start", host, str(found.starts))
        self.trace.lane(host, "waiting")

    def crash(self, host: str) -> None:
        """Kill the process; a freeze of it is over with that."""
        found = self._hosts[host]
        if found.running:
            self._killed(found)
            self.network.process_died(host)
            found.disk.process_died()

    def power_cut(self, host: str) -> None:
        """As a crash; besides, the host falls silent, and its disk loses what was not synced."""
        found = self._hosts[host]
        if found.off:
            return
        if found.running:
            self._killed(found)
        found.off = True
        self.network.host_died(host)
        found.disk.power_cut()

    def leave(self, host: str) -> None:
        """Ask the process to end in order, as Ctrl-C does."""
        found = self._hosts[host]
        # Also of one that has ended just now, whom the operator would start again.
        found.leaving = True
        if not found.running:
            return
        if found.supervisor is not None:
            found.supervisor.request_stop("stopped by Ctrl-C")
        elif found.program is not None:
            found.program.stop()
        elif found.serves and found is not self.first:
            found.task.cancel()
        else:
            self.crash(host)

    def freeze(self, host: str) -> None:
        found = self._hosts[host]
        if found.running and found.process is not None:
            found.process.stop()
            self.network.freeze(host)
            self.trace.freeze(host)
            self.recoveries.struck(self._loop.time(), host, serves=found.serves)

    def thaw(self, host: str) -> None:
        found = self._hosts[host]
        if found.running and found.process is not None:
            found.process.go_on()
            self.network.thaw(host)
            self.trace.thaw(host)

    def slow(self, host: str, factor: float) -> None:
        """The device is `factor` times slower than its profile says; 1 is as it says."""
        self._hosts[host].paced(fault=factor)

    def disk(self, host: str) -> VirtualDisk:
        return self._hosts[host].disk

    def clock(self, host: str) -> VirtualClock:
        return self._hosts[host].clock

    def figures_recorded(self, lines: bytes) -> None:
        """Called by the supervisor's storage. A run that resumes drops rows; here they stay."""
        now = self._loop.time()
        self.rows += (msgspec.structs.replace(row, timestamp=now) for row in rows_of(lines))

    def fault_begun(self, fault: Fault) -> None:
        """Called by the injector. A process that stops is noted where that happens."""
        if isinstance(fault, Partition):
            cut_off = [name for side in fault.between for name in self.hosts.named(side)]
        elif isinstance(fault, Reset | HalfOpen):
            cut_off = list(self.hosts.named(fault.on))
        else:
            return
        for name in cut_off:
            if self._hosts[name].running:
                serves = self._hosts[name].serves
                self.recoveries.struck(self._loop.time(), name, serves=serves)

    def checkpoint_written(self) -> None:
        """Called by the supervisor's storage."""
        self._count("checkpoint")
        text = f"checkpoint {self._counts['checkpoint']}"
        self.trace.record("checkpoint", self.first.name, text, notable=True)

    def _add(self, place: Place, number: int, kind: Kind) -> None:
        name = place.name
        clock = VirtualClock(self._loop.time)
        disk = VirtualDisk(asyncio.sleep, seed_of(self.seed, "disk", name))
        device = Device(place.profile, model_factor=self.work.model_factor)
        run = self.experiment.name or RUN
        self._hosts[name] = Host(place, number, kind, clock, disk, device, run)
        self.network.add_host(name, place.link)
        if kind == "worker":
            self.trace.lane(name, "away")

    def _scheduled(self, host: str, text: str, act: Callable[..., None], *arguments: Any) -> None:
        """What the config has planned for a host, and not a fault."""
        self.trace.record("schedule", host, text, notable=True)
        act(host, *arguments)

    def _pace(self, host: str, factor: float) -> None:
        self._hosts[host].paced(scheduled=factor)

    def _later(self, at: float, call: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_at(max(at, self._loop.time()), call, *arguments)

    async def _life(self, host: Host, process: Process) -> None:
        """One process, from its start to its own end; a killed one never comes that far."""
        try:
            await self._program(host)
        except asyncio.CancelledError:
            if not host.leaving:
                raise
            self.trace.record("exit", host.name)
        except PsedgeError as error:
            self.trace.record("exit", host.name, str(error), notable=True)
            host.take_advice(str(error))
            if host is self.first:
                self.last_words = str(error)
        except Exception as error:
            # A bug: it ends the simulation, so that somebody sees it.
            self.failure = error
            self.over.set()
        else:
            failed = "" if host.supervisor is None else host.supervisor.state.reason
            self.trace.record("exit", host.name, failed, notable=bool(failed))
        self.watch.host_gone(host.name)
        self.trace.lane(host.name, "away")
        self.network.process_died(host.name)
        # Whatever the program has left running ends with its process.
        process.kill()
        self._loop.keep_tasks()
        host.disk.process_died()
        # The operator is no part of that process.
        Context().run(self._look_after, host)

    def _program(self, host: Host) -> Coroutine[Any, Any, None]:
        if not host.serves:
            return nodes.worker(self, host)
        if host is self.first:
            return nodes.first_server(self, host)
        return nodes.further_server(self, host)

    def _look_after(self, host: Host) -> None:
        """What the operator does about a process that has ended by itself."""
        if host.leaving and host is not self.first:
            if host.wanted:
                self._later(self._loop.time(), self.start, host.name)
            return
        if host is not self.first:
            if not self.over.is_set():
                self._later(self._loop.time() + OPERATOR_SECONDS, self._start_again, host.name)
            return
        supervisor = host.supervisor
        ended = supervisor is not None and supervisor.state.phase in ("finished", "stopped")
        if self._giving_up:
            self._giving_up = ended = False
            host.from_checkpoint = True
        if ended or self._resumes >= RESUMES_LIMIT:
            self.over.set()
            return
        self._resumes += 1
        self._later(self._loop.time() + OPERATOR_SECONDS, self._resume)

    def _resume(self) -> None:
        """Start the first server again, which goes on from its last checkpoint."""
        if self.first.off or self.first.running:
            return
        self.trace.record("operator", self.first.name, "resumes the run", notable=True)
        self.start(self.first.name)

    def look(self, silent_seconds: float) -> None:
        """What the operator does about a run in which no push was applied for so long.

        One whose servers will not come back with the logs that the supervisor waits for is stopped,
        and goes on as with `--resume --from-checkpoint`.
        """
        supervisor = self.first.supervisor
        silent_seconds = min(silent_seconds, self._loop.time() - self._first_started_at)
        if silent_seconds < PATIENCE_SECONDS or supervisor is None or not self.first.running:
            return
        if supervisor.state.stop_reason is not None:
            return
        if supervisor.state.waits:
            self.trace.record("operator", self.first.name, "gives lost logs up", notable=True)
            self._giving_up = True
            supervisor.request_stop("stopped by Ctrl-C")

    def _start_again(self, name: str) -> None:
        host = self._hosts[name]
        if not self.over.is_set() and not host.off and not host.running and not host.leaving:
            self.start(name)

    def _killed(self, host: Host) -> None:
        assert host.process is not None
        host.process.kill()
        self._loop.keep_tasks()
        host.supervisor = None
        self.watch.host_gone(host.name)
        self.trace.lane(host.name, "dead")
        self.recoveries.struck(self._loop.time(), host.name, serves=host.serves)

    def _joined(self, host: str) -> None:
        self.trace.record("join", host, "joined", notable=True)
        self.event(f"join {host}")
        self.event("training")

    def _pushed(self, host: str, began: float) -> None:
        self.recoveries.pushed(self._loop.time(), host, began)

    def _applied(self) -> None:
        self._count("push")

    def _snapped(self) -> None:
        self._count("snapshot")

    def _count(self, word: str) -> None:
        self._counts[word] += 1
        self.event(f"{word} {self._counts[word]}")
