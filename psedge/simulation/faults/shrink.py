"""Which faults matter: from a schedule that makes a run fail to a small one that still does.

Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002),
and then each fault that is left gets simpler: shorter, rounder, on fewer hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import msgspec

from psedge.simulation.faults.kinds import Fault, Link

#: Whether a run with just these faults still fails.
StillFails = Callable[[Sequence[Fault]], bool]

#: What says how long a fault lasts.
_SPANS = ("seconds", "restart_after")
#: Seconds; a span that is as short as this tells nothing more by being shorter.
_SHORT_ENOUGH = 1.0


class _OutOfTriesError(Exception):
    """The runs that shrinking may take are used up."""


def shrink(faults: Sequence[Fault], still_fails: StillFails, *, tries: int) -> tuple[Fault, ...]:
    """A small part of `faults`, simplified, for which `still_fails` holds.

    It is taken to hold for all of them. It is asked at most `tries` times, and never twice about
    the same faults; when no tries are left, the best found so far is returned. With enough of them,
    no fault of the answer can be left out.
    """
    search = _Search(tuple(faults), still_fails, tries)
    try:
        search.leave_out()
        if search.simplify():
            search.leave_out()
    except _OutOfTriesError:
        pass
    return search.best


class _Search:
    """best: the smallest schedule so far that fails."""

    def __init__(self, faults: tuple[Fault, ...], still_fails: StillFails, tries: int) -> None:
        self.best = faults
        self._still_fails = still_fails
        self._tries = tries
        self._passed: set[tuple[Fault, ...]] = set()

    def leave_out(self) -> None:
        """Take away ever smaller pieces, until no single fault can be taken away."""
        if self._take(()):
            return
        pieces = 2
        while len(self.best) > 1:
            faults = self.best
            cuts = [len(faults) * cut // pieces for cut in range(pieces + 1)]
            spans = list(pairwise(cuts))
            if pieces > 2 and any(self._take(faults[start:end]) for start, end in spans):
                pieces = 2
            elif any(self._take(faults[:start] + faults[end:]) for start, end in spans):
                pieces = max(pieces - 1, 2)
            elif pieces >= len(faults):
                return
            else:
                pieces = min(2 * pieces, len(faults))

    def simplify(self) -> bool:
        """Make each fault as simple as it can be; returns whether any got simpler."""
        before = self.best
        for number in range(len(before)):
            while any(
                self._replace(number, simpler) for simpler in simpler_ones(self.best[number])
            ):
                pass
        return self.best != before

    def _replace(self, number: int, fault: Fault) -> bool:
        return self._take((*self.best[:number], fault, *self.best[number + 1 :]))

    def _take(self, faults: tuple[Fault, ...]) -> bool:
        """Go on with `faults` if they still fail."""
        if faults == self.best or faults in self._passed:
            return False
        if self._tries <= 0:
            raise _OutOfTriesError
        self._tries -= 1
        if not self._still_fails(faults):
            self._passed.add(faults)
            return False
        self.best = faults
        return True


def simpler_ones(fault: Fault) -> Iterator[Fault]:
    """Simpler variants of a fault, the boldest first. Each chain of them ends."""
    yield from _on_fewer_hosts(fault)
    if isinstance(fault, Link) and len(fault.changes()) > 1:
        for name in fault.changes():
            yield msgspec.structs.replace(fault, **{name: None})
    for name in _SPANS:
        span = getattr(fault, name, None)
        if span is not None:
            yield from _with(fault, name, _shorter(span))
    if fault.at is not None:
        yield from _with(fault, "at", _rounder(fault.at))


def _on_fewer_hosts(fault: Fault) -> Iterator[Fault]:
    for name in ("on", "peer"):
        target = getattr(fault, name, "")
        if isinstance(target, tuple) and len(target) > 1:
            for host in target:
                yield msgspec.structs.replace(fault, **{name: host})
            for number in range(len(target)):
                fewer = target[:number] + target[number + 1 :]
                yield msgspec.structs.replace(fault, **{name: fewer})


def _with(fault: Fault, name: str, values: Sequence[float]) -> Iterator[Fault]:
    for value in values:
        yield msgspec.structs.replace(fault, **{name: value})


def _shorter(span: float) -> list[float]:
    """A second, half of it, a little less, or rounder; never longer."""
    shorter = (1.0, _three_digits(span / 2), _three_digits(span / 1.2))
    enough = [value for value in shorter if _SHORT_ENOUGH <= value < span]
    return enough + [value for value in _rounder(span) if value > 0]


def _three_digits(seconds: float) -> float:
    return float(f"{seconds:.3g}")


def _rounder(seconds: float) -> list[float]:
    """Fewer digits behind the point, and no later."""
    cut = [int(seconds * scale) / scale for scale in (1, 10)]
    return [value for value in cut if value != seconds and _digits(value) < _digits(seconds)]


def _digits(seconds: float) -> int:
    return len(repr(seconds).partition(".")[2].rstrip("0"))
