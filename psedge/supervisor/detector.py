"""When a silent node is dead: the phi accrual failure detector (Hayashibara et al. 2004).

From the latest intervals between a node's signs of life follows how improbable its present silence
is: phi = -log10 of the probability that a living node is silent for so long. A node that is heard
irregularly, such as a loaded Pi, is thereby given more time than one that ticks like a clock.
"""

from __future__ import annotations

import math
from array import array
from statistics import NormalDist

#: Intervals that are remembered of a node.
WINDOW = 100
#: A node is suspected from here on; nothing happens, people see it.
SUSPECT_PHI = 3.0
#: A node is dead from here on.
DEAD_PHI = 10.0
#: Limits of the silence that kills, whatever the intervals say.
SHORTEST_LEASE_SECONDS = 5.0
LONGEST_LEASE_SECONDS = 60.0
#: A machine that was idle may come under load at any time and then skip seconds, so no node is
#: taken to be more regular than this.
DEVIATION_FLOOR_SECONDS = 1.0
DEVIATION_FLOOR = 0.5  #: the same, in expected intervals; the larger of both counts
#: Intervals that a new node is credited with, as long as expected, and their deviation in expected
#: intervals: whoever has just started is busy with other things.
PRIOR_INTERVALS = 10
PRIOR_DEVIATION = 1.5
#: Largest phi that is told; beyond it the probability is too small for a float.
PHI_LIMIT = 300.0

#: Deviations above the mean at which phi is DEAD_PHI.
_DEAD_DEVIATIONS = NormalDist().inv_cdf(1 - 10**-DEAD_PHI)


class PhiAccrual:
    """Of one node. Intervals are kept in whole milliseconds, so that their sums stay exact."""

    __slots__ = (
        "_expected",
        "_fixed",
        "_heard_at",
        "_longest",
        "_next",
        "_squares",
        "_sum",
        "_window",
    )

    def __init__(self, now: float, expected_seconds: float, lease_seconds: float | None) -> None:
        """now: of its first sign of life. expected_seconds: between two of them.

        lease_seconds: silence that kills, where it is fixed; None: as the intervals say.
        """
        self._heard_at = now
        self._expected = expected_seconds
        self._fixed = lease_seconds
        self._longest = longest_lease(expected_seconds, None)
        self._window = array("I")
        self._next = 0
        self._sum = 0
        self._squares = 0

    def heard(self, now: float) -> None:
        """A sign of life. Time that went backwards counts as none."""
        passed = now - self._heard_at
        if passed <= 0:
            return
        self._heard_at = now
        interval = int(min(passed, self._longest) * 1000)
        window, place = self._window, self._next
        if len(window) < WINDOW:
            window.append(interval)
        else:
            old = window[place]
            self._sum -= old
            self._squares -= old * old
            window[place] = interval
        self._next = place + 1 if place + 1 < WINDOW else 0
        self._sum += interval
        self._squares += interval * interval

    def silence(self, now: float) -> float:
        """Seconds since it was last heard."""
        return max(now - self._heard_at, 0.0)

    def phi(self, now: float) -> float:
        """How improbable the present silence is, 0 to PHI_LIMIT; 1 is one in ten, 2 one in 100."""
        mean, deviation = self._normal()
        excess = (self.silence(now) - mean) / deviation
        probability = 0.5 * math.erfc(excess / math.sqrt(2))
        if probability <= 10**-PHI_LIMIT:
            return PHI_LIMIT
        return max(-math.log10(probability), 0.0)

    def lease_seconds(self) -> float:
        """The silence after which the node is dead."""
        if self._fixed is not None:
            return self._fixed
        mean, deviation = self._normal()
        lease = mean + _DEAD_DEVIATIONS * deviation
        return min(max(lease, SHORTEST_LEASE_SECONDS), self._longest)

    def suspect(self, now: float) -> bool:
        return self.phi(now) >= SUSPECT_PHI

    def dead(self, now: float) -> bool:
        return self.silence(now) > self.lease_seconds()

    def forgive(self, seconds: float, now: float) -> None:
        """The listener itself was away for so long: nobody could have been heard."""
        self._heard_at = min(self._heard_at + seconds, max(now, self._heard_at))

    def _normal(self) -> tuple[float, float]:
        """Mean and deviation of the intervals, in seconds, with the prior among them."""
        prior = max(PRIOR_INTERVALS - len(self._window), 0)
        count = len(self._window) + prior
        spread = PRIOR_DEVIATION * self._expected
        mean = (self._sum / 1000 + prior * self._expected) / count
        squares = self._squares / 10**6 + prior * (self._expected**2 + spread**2)
        deviation = math.sqrt(max(squares / count - mean**2, 0.0))
        return mean, max(deviation, DEVIATION_FLOOR_SECONDS, DEVIATION_FLOOR * self._expected)


def longest_lease(expected_seconds: float, lease_seconds: float | None) -> float:
    """The longest that any node may be silent. lease_seconds: where it is fixed."""
    if lease_seconds is not None:
        return lease_seconds
    return max(LONGEST_LEASE_SECONDS, 4 * expected_seconds)


def shortest_lease(lease_seconds: float | None) -> float:
    """Nobody is dead who has been silent for less. lease_seconds: where it is fixed."""
    return SHORTEST_LEASE_SECONDS if lease_seconds is None else lease_seconds
