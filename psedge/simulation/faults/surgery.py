"""What a fault can do to a virtual world; the world implements it, tests record it.

No method fails because a host already is as asked: a dead process crashes once more without effect,
one that runs is not started again, one that does not stand still thaws without effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from psedge.simulation.faults.hosts import Hosts


class NetworkSurgery(Protocol):
    """The network, as far as faults touch it."""

    def change_link(self, host: str, **fields: float) -> None:
        """fields: as kinds.Link names them; what is not given stays as it is."""
        ...

    def restore_link(self, host: str) -> None:
        """The link is as its profile says."""
        ...

    def partition(
        self, sources: Sequence[str], targets: Sequence[str], *, both_ways: bool = True
    ) -> int:
        """Nothing passes from sources to targets until the returned key is healed."""
        ...

    def heal(self, key: int) -> None: ...

    def reset_connections(self, host: str, peer: str | None = None) -> None:
        """Break the connections of a host, to one peer or to all; both ends notice at once."""
        ...

    def half_open(self, host: str, peer: str | None = None) -> None:
        """Let a host forget its connections; peers notice when they send something."""
        ...


class DiskSurgery(Protocol):
    """A disk, as far as faults touch it. slow_factor: 3 is three times slower."""

    full: bool
    slow_factor: float

    def rot(self, path_part: str = "") -> str | None:
        """Flip one bit of a stored file; returns its path, None if there is none."""
        ...


class ClockSurgery(Protocol):
    """A clock, as far as faults touch it. skew_seconds: of the time of day only."""

    skew_seconds: float

    @property
    def drift(self) -> float: ...

    def set_drift(self, drift: float) -> None: ...


class Surgery(Protocol):
    """A virtual world, as far as faults touch it."""

    @property
    def network(self) -> NetworkSurgery: ...

    @property
    def hosts(self) -> Hosts:
        """Every host there is, running or not."""
        ...

    def crash(self, host: str) -> None:
        """Kill the process; a freeze of it is over with that."""
        ...

    def power_cut(self, host: str) -> None:
        """As a crash; besides, the host falls silent, and its disk loses what was not synced."""
        ...

    def leave(self, host: str) -> None:
        """Ask the process to end in order, as Ctrl-C does."""
        ...

    def start(self, host: str) -> None:
        """Switch the host on if it is off, and start its process."""
        ...

    def freeze(self, host: str) -> None: ...

    def thaw(self, host: str) -> None: ...

    def slow(self, host: str, factor: float) -> None:
        """The device is `factor` times slower than its profile says; 1 is as it says."""
        ...

    def disk(self, host: str) -> DiskSurgery: ...

    def clock(self, host: str) -> ClockSurgery: ...


class FaultTrace(Protocol):
    """Where faults are recorded; trace.Trace is one."""

    def record(self, kind: str, node: str, text: str = "", *, notable: bool = False) -> None: ...
