"""Checkers of the invariants that the virtual world holds its runs against; see `checker.py`."""

from __future__ import annotations

from psedge.simulation.checkers.bit_identity import BitIdentity
from psedge.simulation.checkers.bounds import Bounds
from psedge.simulation.checkers.checker import Checker
from psedge.simulation.checkers.conservation import Conservation
from psedge.simulation.checkers.cores import Cores
from psedge.simulation.checkers.exactly_once import ExactlyOnce
from psedge.simulation.checkers.primaries import Primaries
from psedge.simulation.checkers.samples import Samples
from psedge.simulation.checkers.staleness import Staleness

__all__ = ["CHECKERS", "Checker"]

#: In the order of the invariants.
CHECKERS: tuple[type[Checker], ...] = (
    Cores,
    ExactlyOnce,
    Primaries,
    BitIdentity,
    Staleness,
    Conservation,
    Samples,
    Bounds,
)
