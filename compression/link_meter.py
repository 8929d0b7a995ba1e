"""How fast a link is, from the transfers that cross it anyway."""

from __future__ import annotations

from collections import deque
from statistics import median

#: Shorter transfers say more about delays than about the link's rate: they fit into the first
#: packets that TCP sends without waiting for an answer.
TELLING_BYTES = 16 * 1024
#: Taken off each transfer's time: what waking up both ends takes, whatever the size.
DELAY_SECONDS = 0.0005
#: Transfers that count; half as many new ones show that a link has changed.
REMEMBERED = 15


class LinkMeter:
    """One link's rate in one direction.

    It is the median of the latest transfers, because a busy machine holds up single ones.
    """

    def __init__(self) -> None:
        self._telling: deque[float] = deque(maxlen=REMEMBERED)
        self._short: deque[float] = deque(maxlen=REMEMBERED)

    def add(self, size: int, seconds: float) -> None:
        """A transfer of `size` bytes, at least one, took `seconds`."""
        measured = max(0.0, seconds - DELAY_SECONDS) / size
        (self._telling if size >= TELLING_BYTES else self._short).append(measured)

    @property
    def seconds_per_byte(self) -> float | None:
        """None before the first transfer; 0 when the transfers took no measurable time.

        Transfers below TELLING_BYTES count only while there is no longer one.
        """
        measured = self._telling or self._short
        return median(measured) if measured else None
