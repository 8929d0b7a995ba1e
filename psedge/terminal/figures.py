"""Figures as people read them: counts, bytes, durations, and a curve in one line of text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"


def count(value: float) -> str:
    """A whole number with thousands set apart: `12,345`."""
    return f"{round(value):,}"


def data_size(size_bytes: float) -> str:
    """Bytes with a decimal unit and three digits or fewer: `12.3 MB`."""
    if size_bytes < 1000:
        return f"{round(size_bytes)} B"
    value, larger = size_bytes / 1000, ["TB", "GB", "MB", "kB"]
    while value >= 999.5 and len(larger) > 1:
        value /= 1000
        larger.pop()
    unit = larger[-1]
    digits = 0 if value >= 99.95 else 1
    return f"{value:.{digits}f} {unit}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as on a clock: `0:07`, `1:02:45`."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def percent(fraction: float) -> str:
    """A fraction of 1 with one decimal: `97.2 %`."""
    return f"{100 * fraction:.1f} %"


def loss(value: float | None) -> str:
    """A loss with three digits that mean something; a dash when there is none."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.3g}"


def plural(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as a row of at most `width` bars, the lowest value lowest.

    Longer series are averaged over equal stretches. A single value, or equal ones, draw a flat
    line: there is no shape to show yet.
    """
    finite = [value for value in values if abs(value) != float("inf") and value == value]
    if not finite or width < 1:
        return ""
    points = _averaged(finite, width)
    low, high = min(points), max(points)
    if high == low:
        return _BLOCKS[0] * len(points)
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round((point - low) / (high - low) * top)] for point in points)


def _averaged(values: Sequence[float], width: int) -> list[float]:
    """At most `width` means over equal stretches of `values`."""
    if len(values) <= width:
        return list(values)
    edges = [index * len(values) // width for index in range(width + 1)]
    return [sum(values[start:stop]) / (stop - start) for start, stop in itertools.pairwise(edges)]
