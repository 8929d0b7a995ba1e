"""What is done to a cluster on purpose: which fault strikes which role, drawn from a seed.

A pure core: chance is handed in, and nothing is done here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    import numpy as np

Role = Literal["primary", "backup", "supervisor", "worker"]
Fault = Literal["kill", "pause", "throttle"]

ROLES: tuple[Role, ...] = ("primary", "backup", "supervisor", "worker")
FAULTS: tuple[Fault, ...] = ("kill", "pause", "throttle")
#: How long a fault lasts, from and to: until a killed process is started again, one that stands
#: still goes on, one that runs in bursts runs as before.
SECONDS: dict[Fault, tuple[float, float]] = {
    "kill": (1.0, 4.0),
    "pause": (1.0, 8.0),
    "throttle": (4.0, 10.0),
}
#: A throttled process runs for this share of each period.
THROTTLE_PERIOD_SECONDS, THROTTLE_SHARE = 0.1, 0.2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Strike:
    """seconds: how long it lasts. choice: from 0 to 1, of one among several of the role."""

    role: Role
    fault: Fault
    seconds: float
    choice: float

    def of(self, candidates: Sequence[T]) -> T:
        """The one that is struck; there must be one."""
        return candidates[min(int(self.choice * len(candidates)), len(candidates) - 1)]


def draw_strikes(
    random: np.random.Generator, roles: Sequence[Role], faults: Sequence[Fault]
) -> Iterator[Strike]:
    """Strikes without end: each fault on each role once, in a random order, then all of them again.

    roles, faults: at least one of each.
    """
    pairs = [(role, fault) for role in roles for fault in faults]
    while True:
        for index in random.permutation(len(pairs)):
            role, fault = pairs[int(index)]
            low, high = SECONDS[fault]
            seconds = round(float(random.uniform(low, high)), 1)
            yield Strike(role, fault, seconds, float(random.random()))
