"""What each kind of fault does to a world, and how several at the same time on one host add up.

A world holds no faults, only their sum: two slow-downs multiply, and a host thaws when the last
freeze is over. So each fault that lasts stands in a list, and whenever the list changes the host is
set to what all of its entries come to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import prod
from typing import TypeVar

from psedge.simulation.faults.fault import Outage
from psedge.simulation.faults.hosts import Target
from psedge.simulation.faults.kinds import (
    ClockSkew,
    Crash,
    DiskFull,
    DiskRot,
    DiskSlow,
    Fault,
    Freeze,
    HalfOpen,
    Join,
    Leave,
    Link,
    Partition,
    PowerCut,
    Reset,
    Slow,
)
from psedge.simulation.faults.surgery import Surgery

F = TypeVar("F")

#: Ends what a fault began.
Undo = Callable[[], None]

#: Faults whose effect is the sum of all that stand.
Lasting = Freeze | Slow | Link | DiskFull | DiskSlow | ClockSkew


class Effects:
    """The faults that stand in one world."""

    def __init__(self, surgery: Surgery) -> None:
        self._surgery = surgery
        self._standing: defaultdict[str, list[Lasting]] = defaultdict(list)
        #: Outages of each host that will end by themselves.
        self._outages: defaultdict[str, int] = defaultdict(int)
        self._first_clocks: dict[str, tuple[float, float]] = {}

    def begin(self, fault: Fault) -> Undo | None:
        """Let a fault strike. Returns what ends it, or None if there is nothing to end."""
        if isinstance(fault, Lasting):
            return self._stand(fault)
        if isinstance(fault, Crash | PowerCut | Leave):
            return self._outage(fault)
        if isinstance(fault, Partition):
            return self._partition(fault)
        for host in self._named(fault.on):
            match fault:
                case Join():
                    self._surgery.start(host)
                case Reset():
                    for peer in self._peers(host, fault.peer):
                        self._surgery.network.reset_connections(host, peer)
                case HalfOpen():
                    for peer in self._peers(host, fault.peer):
                        self._surgery.network.half_open(host, peer)
                case DiskRot():
                    self._surgery.disk(host).rot(fault.path)
        return None

    def _named(self, target: Target) -> tuple[str, ...]:
        return self._surgery.hosts.named(target)

    def _stand(self, fault: Lasting) -> Undo:
        hosts = self._named(fault.on)
        for host in hosts:
            self._standing[host].append(fault)
            self._settle(host, type(fault))

        def undo() -> None:
            for host in hosts:
                # A crash may have ended it before.
                if fault in self._standing[host]:
                    self._standing[host].remove(fault)
                    self._settle(host, type(fault))

        return undo

    def _settle(self, host: str, kind: type[Lasting]) -> None:
        """Set one property of a host to what all standing faults of a kind come to."""
        surgery = self._surgery
        if kind is Freeze:
            (surgery.freeze if self._of(host, Freeze) else surgery.thaw)(host)
        elif kind is Slow:
            surgery.slow(host, prod(fault.factor for fault in self._of(host, Slow)))
        elif kind is Link:
            surgery.network.restore_link(host)
            changes = merged(self._of(host, Link))
            if changes:
                surgery.network.change_link(host, **changes)
        elif kind is DiskFull:
            surgery.disk(host).full = bool(self._of(host, DiskFull))
        elif kind is DiskSlow:
            slow = prod(fault.factor for fault in self._of(host, DiskSlow))
            surgery.disk(host).slow_factor = slow
        else:
            self._settle_clock(host)

    def _of(self, host: str, kind: type[F]) -> list[F]:
        return [fault for fault in self._standing[host] if isinstance(fault, kind)]

    def _settle_clock(self, host: str) -> None:
        clock = self._surgery.clock(host)
        skew, drift = self._first_clocks.setdefault(host, (clock.skew_seconds, clock.drift))
        standing = self._of(host, ClockSkew)
        clock.skew_seconds = skew + sum(fault.by_seconds for fault in standing)
        clock.set_drift(max(-0.5, drift + sum(fault.drift for fault in standing)))

    def _outage(self, fault: Outage) -> Undo | None:
        hosts, ends = self._named(fault.on), fault.restart_after is not None
        for host in hosts:
            match fault:
                case Crash():
                    self._surgery.crash(host)
                case PowerCut():
                    self._surgery.power_cut(host)
                case _:
                    self._surgery.leave(host)
            if not isinstance(fault, Leave):
                frozen = self._of(host, Freeze)
                self._standing[host] = [it for it in self._standing[host] if it not in frozen]
            self._outages[host] += ends

        def undo() -> None:
            for host in hosts:
                self._outages[host] -= 1
                if self._outages[host] == 0:
                    self._surgery.start(host)

        return undo if ends else None

    def _partition(self, fault: Partition) -> Undo:
        first, second = (self._named(side) for side in fault.between)
        # Roles that move can meet on one host.
        second = tuple(host for host in second if host not in first)
        key = self._surgery.network.partition(first, second, both_ways=not fault.one_way)
        return lambda: self._surgery.network.heal(key)

    def _peers(self, host: str, peer: Target) -> list[str | None]:
        """Whom connections lead to; None stands for everyone."""
        return [None] if peer == "all" else [it for it in self._named(peer) if it != host]


def merged(links: Sequence[Link]) -> dict[str, float]:
    """What several changes of one link come to: rates multiply, of all others the worst counts."""
    found: dict[str, float] = {}
    for link in links:
        for name, value in link.changes().items():
            if name == "bits_per_second_factor":
                found[name] = found.get(name, 1.0) * value
            else:
                found[name] = max(found.get(name, 0.0), value)
    return found
