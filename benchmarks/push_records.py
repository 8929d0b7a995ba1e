"""What `pushing_worker.py` wrote down: when pushes were acknowledged, and what follows from it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Step:
    """One acknowledged push. began, ended: monotonic seconds. clock: completed steps."""

    began: float
    ended: float
    clock: int


@dataclass(slots=True)
class Record:
    """imported, joined: the moments of the latest start, 0 before them. number: the worker's."""

    imported: float = 0.0
    joined: float = 0.0
    number: int = -1
    steps: list[Step] = field(default_factory=list)


def read_record(path: Path) -> Record:
    """The record so far; a line that is being written counts the next time."""
    record = Record()
    if not path.exists():
        return record
    for line in path.read_text().splitlines(keepends=True):
        parts = line.split()
        if not line.endswith("\n"):
            break
        if parts[0] == "imported":
            record.imported = float(parts[1])
        elif parts[0] == "joined":
            record.joined, record.number = float(parts[1]), int(parts[2])
        else:
            record.steps.append(Step(float(parts[0]), float(parts[1]), int(parts[2])))
    return record


def first_after(record: Record, moment: float) -> Step | None:
    """The first acknowledged push that was begun after something happened at `moment`."""
    return next((step for step in record.steps if step.began >= moment), None)


def gaps(record: Record, start: float, stop: float) -> list[float]:
    """Seconds between acknowledgements, of those that overlap the time from `start` to `stop`.

    One that has not ended by `stop` counts as far as it is known.
    """
    moments = [step.ended for step in record.steps]
    before = [moment for moment in moments if moment < start]
    inside = [moment for moment in moments if start <= moment <= stop]
    return [b - a for a, b in itertools.pairwise([*before[-1:], *inside, stop])]


def longest_gap(records: Sequence[Record], start: float, stop: float) -> float:
    """Of all workers."""
    return max((gap for record in records for gap in gaps(record, start, stop)), default=0.0)
