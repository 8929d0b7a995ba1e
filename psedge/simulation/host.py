"""One machine of the virtual world: what stays when its processes come and go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from psedge.run_folder import RUNS
from psedge.simulation.clock import VirtualClock
from psedge.simulation.devices import Device
from psedge.simulation.disk import VirtualDisk
from psedge.simulation.placement import Place
from psedge.simulation.process import Process
from psedge.supervisor.service import Supervisor
from psedge.work import Worker

#: What runs there: `supervisor` only where it is apart, else it is with the first `server`.
Kind = Literal["supervisor", "server", "worker"]


@dataclass(slots=True)
class Host:
    """number: of its kind, from 0. run: name of the experiment. runs: how many of it were begun
    here. stores: of the folders for its logs. from_checkpoint: the next supervisor is to go back
    there, whatever the servers have. starts: of its process so far.

    process, task: of the latest start; None before the first. program: what a worker's process
    runs. supervisor: where it runs, once it does. leaving: it was asked to end.
    wanted: meanwhile it was asked to start again.
    scheduled_slow, fault_slow: how many times slower it is, by its schedule and by faults.
    """

    place: Place
    number: int
    kind: Kind
    clock: VirtualClock
    disk: VirtualDisk
    device: Device
    run: str = ""
    runs: int = 1
    stores: int = 1
    from_checkpoint: bool = False
    starts: int = 0
    process: Process | None = None
    task: Any = None
    program: Worker | None = None
    supervisor: Supervisor | None = None
    off: bool = False
    leaving: bool = False
    wanted: bool = False
    scheduled_slow: float = 1.0
    fault_slow: float = 1.0

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def serves(self) -> bool:
        """Whether it is no worker."""
        return self.kind != "worker"

    @property
    def folder(self) -> str:
        """On its disk, of the run that it supervises."""
        return f"{RUNS}/{self.run}" + (f"-{self.runs}" if self.runs > 1 else "")

    def take_advice(self, error: str) -> None:
        """What a program says when it ends is what the operator does."""
        if "name another folder with --store" in error and "disk is full" not in error:
            self.stores += 1

    def begin_another_run(self) -> None:
        """What the folder holds is of no more use."""
        self.runs += 1

    def paced(self, *, scheduled: float | None = None, fault: float | None = None) -> None:
        """Be slower, or as fast as before, for one reason or the other."""
        self.scheduled_slow = self.scheduled_slow if scheduled is None else scheduled
        self.fault_slow = self.fault_slow if fault is None else fault
        self.device.slow_factor = self.scheduled_slow * self.fault_slow

    @property
    def running(self) -> bool:
        """Whether its process is there, be it stopped."""
        alive = self.process is not None and not self.process.dead
        return alive and self.task is not None and not self.task.done()
