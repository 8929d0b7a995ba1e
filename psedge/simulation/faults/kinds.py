"""Every kind of fault; the tag is its `kind` in a plan."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from psedge.simulation.faults.fault import (
    BaseFault,
    HostFault,
    LastingFault,
    Outage,
    Probability,
    Seconds,
    Slowness,
    Span,
    for_seconds,
)
from psedge.simulation.faults.hosts import Target, label


class Crash(Outage, frozen=True, tag="crash"):
    """The process is killed, as by `kill -9`; the kernel resets its connections."""

    def what(self) -> str:
        return f"crash{self._back()}"


class PowerCut(Outage, frozen=True, tag="power-cut"):
    """The host falls silent, and its disk loses what was not synced."""

    def what(self) -> str:
        return f"power cut{self._back()}"


class Leave(Outage, frozen=True, tag="leave"):
    """The process ends in order, as on Ctrl-C."""

    def what(self) -> str:
        return f"leaves{self._back()}"


class Join(HostFault, frozen=True, tag="join"):
    """The process is started; nothing happens if it runs."""

    def what(self) -> str:
        return "joins"


class Freeze(LastingFault, frozen=True, tag="freeze"):
    """The process stands still, as on SIGSTOP; the kernel still takes bytes for it."""

    def what(self) -> str:
        return f"frozen{self._for()}"


class Slow(LastingFault, frozen=True, kw_only=True, tag="slow"):
    """The device computes `factor` times slower."""

    factor: Slowness

    def what(self) -> str:
        return f"{self.factor:g} times slower{self._for()}"


class Partition(BaseFault, frozen=True, kw_only=True, tag="partition"):
    """Nothing passes between two sides. one_way: only from the first side to the second."""

    between: tuple[Target, Target]
    one_way: bool = False
    seconds: Span | None = None

    @property
    def lasts(self) -> float | None:
        return self.seconds

    @property
    def where(self) -> str:
        first, second = (label(side) for side in self.between)
        return f"{first} {'>' if self.one_way else '|'} {second}"

    def what(self) -> str:
        return f"nothing gets through{for_seconds(self.seconds)}"


class Reset(HostFault, frozen=True, kw_only=True, tag="reset"):
    """Open connections are reset. peer: only those with these hosts."""

    peer: Target = "all"

    def what(self) -> str:
        return f"connections{_with(self.peer)} are reset"


class HalfOpen(HostFault, frozen=True, kw_only=True, tag="half-open"):
    """The host forgets its connections, and a peer hears of that only when it sends something."""

    peer: Target = "all"

    def what(self) -> str:
        return f"connections{_with(self.peer)} forgotten"


class Link(LastingFault, frozen=True, kw_only=True, tag="link"):
    """The hosts' links get worse: what is given replaces what their profile says.

    bits_per_second_factor multiplies the profile's rate. The probabilities are per segment, but
    `corruption_undetected` is per body: one bit of it is flipped and TCP does not notice.
    """

    bits_per_second_factor: Span | None = None
    delay_seconds: Seconds | None = None
    jitter_seconds: Seconds | None = None
    loss: Probability | None = None
    duplication: Probability | None = None
    reordering: Probability | None = None
    corruption: Probability | None = None
    corruption_undetected: Probability | None = None

    def changes(self) -> dict[str, float]:
        """The given fields by name."""
        found = {name: getattr(self, name) for name in LINK_FIELDS}
        return {name: value for name, value in found.items() if value is not None}

    def what(self) -> str:
        changes = ", ".join(f"{name} {value:g}" for name, value in self.changes().items())
        return f"link: {changes}{self._for()}"


LINK_FIELDS = tuple(
    name for name in Link.__struct_fields__ if name not in LastingFault.__struct_fields__
)


class DiskFull(LastingFault, frozen=True, tag="disk-full"):
    """Every write fails with ENOSPC."""

    def what(self) -> str:
        return f"disk full{self._for()}"


class DiskSlow(LastingFault, frozen=True, kw_only=True, tag="disk-slow"):
    """The disk is `factor` times slower."""

    factor: Slowness

    def what(self) -> str:
        return f"disk {self.factor:g} times slower{self._for()}"


class DiskRot(HostFault, frozen=True, kw_only=True, tag="disk-rot"):
    """One bit of one stored file flips. path: part of the file's name; absent: any file."""

    path: str = ""

    def what(self) -> str:
        which = f'a file named like "{self.path}"' if self.path else "a file"
        return f"a bit of {which} rots on the disk"


class ClockSkew(LastingFault, frozen=True, kw_only=True, tag="clock-skew"):
    """by_seconds: the time of day jumps. drift: 0.001 makes the clock run 0.1 % fast."""

    by_seconds: float = 0.0
    drift: Annotated[float, Meta(ge=-0.5, le=0.5)] = 0.0

    def what(self) -> str:
        jump = f"jumps by {self.by_seconds:g} s" if self.by_seconds else ""
        pace = "fast" if self.drift > 0 else "slow"
        drift = f"runs {100 * abs(self.drift):g} % {pace}" if self.drift else ""
        return f"clock {' and '.join(filter(None, (jump, drift)))}{self._for()}"


Fault = (
    Crash
    | PowerCut
    | Leave
    | Join
    | Freeze
    | Slow
    | Partition
    | Reset
    | HalfOpen
    | Link
    | DiskFull
    | DiskSlow
    | DiskRot
    | ClockSkew
)

KINDS: dict[str, type[Fault]] = {
    str(type_.__struct_config__.tag): type_
    for type_ in (
        Crash, PowerCut, Leave, Join, Freeze, Slow, Partition, Reset, HalfOpen, Link,
        DiskFull, DiskSlow, DiskRot, ClockSkew,
    )
}  # fmt: skip


def _with(peer: Target) -> str:
    return "" if peer == "all" else f" with {label(peer)}"
