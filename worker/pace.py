"""How long a worker waits after each step to be as slow as it was asked to be."""

from __future__ import annotations

#: A step that took more than so many times the usual one was held up, by a process that was
#: stopped or a machine that slept, and did not compute all that time.
HELD_UP = 4.0
#: What one step changes of what is usual.
_WEIGHT = 0.2


class Pace:
    """factor: 3.0 makes a worker three times slower than its machine; 1.0 changes nothing."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._usual: float | None = None

    def pause(self, seconds: float) -> float:
        """Seconds to wait after a step that took so many.

        Only what it computed is made longer: time in which it was held up passes once.
        """
        if self._usual is None:
            self._usual = seconds
        computed = min(seconds, HELD_UP * self._usual)
        # A machine that has become much slower for good is followed within a few steps.
        self._usual += _WEIGHT * (computed - self._usual)
        return (self._factor - 1.0) * computed
