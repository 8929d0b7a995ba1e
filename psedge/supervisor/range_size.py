"""How many samples a worker is handed at a time, or in `bsp` is to hold in all.

Enough to go on for a while without the supervisor, which may be killed and started anew; and less
and less towards the end, so that all workers have something to do until the last moment (guided
self-scheduling, Polychronopoulos and Kuck 1987).
"""

from __future__ import annotations

#: Training goes on for so long without a supervisor, at least half of it in the worst moment.
RESERVE_SECONDS = 20.0
#: They take at most this part of the time that training still takes.
LARGEST_PART = 1 / 4


def range_samples(
    least: int, push: int, rate: float, rate_of_all: float, unclaimed: int | None
) -> int:
    """Samples for a worker, in whole pushes.

    least: what the config says. push: samples of one push. rate, rate_of_all: samples per second of
    the worker, and of all together; 0 where unknown. unclaimed: samples that nobody holds; None:
    without end.
    """
    seconds = RESERVE_SECONDS
    if unclaimed is not None:
        seconds = min(seconds, LARGEST_PART * unclaimed / rate_of_all) if rate_of_all > 0 else 0.0
    return max(least, int(rate * seconds) // push * push)
