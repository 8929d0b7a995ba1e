"""What goes into one simulated run, what comes out of it, and what is said on the way.

All times are virtual seconds since the start of the run, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from psedge.config import Experiment
from psedge.simulation.trace import Event
from psedge.supervisor.run_rows import Result, Row

if TYPE_CHECKING:
    from psedge.simulation.faults.plan import FaultPlan

#: Where a run without a word about it is broken off: a month of virtual time.
LIMIT_SECONDS = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Order:
    """One run to simulate.

    seed: of everything that happens in the world; the experiment's own seed stays as it is.
    work: synthetic gradients, or real training on real data from the folder `data`.
    limit_seconds: where the run is broken off. lanes: record what every device does.
    """

    experiment: Experiment
    seed: int = 0
    plan: FaultPlan | None = None
    work: Literal["synthetic", "real"] = "synthetic"
    data: Path = Path("data")
    limit_seconds: float = LIMIT_SECONDS
    checkers: bool = True
    lanes: bool = True


class Enough(Exception):  # noqa: N818
    """Raised by who is told of a run's progress: it is to end here, and to say what it came to."""


class Violation(msgspec.Struct, frozen=True):
    """An invariant that did not hold.

    invariant: its number in docs/simulation.md, 1 to 7; 0: a core's own check_invariants().
    """

    at: float
    invariant: int
    node: str
    text: str


class Recovery(msgspec.Struct, frozen=True):
    """How long it took until what a fault had stopped went on.

    at: when the fault struck. what: what had to come back, such as `pushes of pi-3` or `training`.
    seconds: until it did; None if it never did.
    """

    at: float
    node: str
    what: str
    seconds: float | None


class HostTraffic(msgspec.Struct, frozen=True):
    """Bytes on the wire of one host, headers and retransmissions included."""

    sent_bytes: int
    received_bytes: int


class Simulate(Protocol):
    """Runs an order to its end, in this process.

    progress: called now and then; cuts the run short by raising Enough.
    """

    def __call__(
        self, order: Order, progress: Callable[[Progress], None] | None = None
    ) -> Outcome: ...


#: Makes what all runs of an order have in common, whatever their seed, and says what it does.
Prepare = Callable[[Order, Callable[[str], None]], Simulate]


class Progress(msgspec.Struct, frozen=True):
    """How far a run is. samples_per_second: of virtual time.

    news: events since the last progress. violations: so far.
    """

    virtual_seconds: float
    phase: str = "waiting"
    epoch: int = 0
    epochs: int = 0
    samples: int = 0
    samples_total: int = 0
    samples_per_second: float = 0.0
    train_loss: float | None = None
    test_accuracy: float | None = None
    workers: int = 0
    violations: int = 0
    news: tuple[Event, ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """What one simulated run came to.

    result: as in the run folder; None when the supervisor did not come to write one.
    phase, reason: how the run ended; `cut` at the limit of virtual time.
    profiles: device profile of each host, in the order in which people expect the hosts.
    servers: which of the hosts are servers.
    faults: what struck, one sentence each. drawn: the same as a plan without chance.
    digest: of the event trace; equal digests mean equal runs, byte for byte.
    lanes: of each host (time, state) from then on; states are those of trace.LANE_STATES.
    rows: of metrics.jsonl, with virtual seconds as their timestamps. traffic: by host.
    files: the run folder as it is on the supervisor's virtual disk.
    """

    seed: int
    phase: str
    virtual_seconds: float
    result: Result | None = None
    reason: str = ""
    profiles: dict[str, str] = {}
    servers: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    drawn: FaultPlan | None = None
    violations: tuple[Violation, ...] = ()
    recoveries: tuple[Recovery, ...] = ()
    digest: str = ""
    events: tuple[Event, ...] = ()
    events_left_out: int = 0
    lanes: dict[str, list[tuple[float, str]]] = {}
    rows: tuple[Row, ...] = ()
    traffic: dict[str, HostTraffic] = {}
    files: dict[str, bytes] = {}

    def told(self) -> tuple[Event, ...]:
        """The events, with the end of a fault as a `recovery`."""
        ends = set() if self.drawn is None else {fault.over() for fault in self.drawn.faults}
        return tuple(
            msgspec.structs.replace(event, kind="recovery")
            if event.kind == "fault" and event.text in ends
            else event
            for event in self.events
        )
