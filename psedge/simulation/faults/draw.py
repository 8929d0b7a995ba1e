"""One random fault of each kind: how long, how bad, against whom."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import msgspec

from psedge.simulation.faults.hosts import Hosts
from psedge.simulation.faults.kinds import (
    ClockSkew,
    Crash,
    DiskFull,
    DiskRot,
    DiskSlow,
    Fault,
    Freeze,
    HalfOpen,
    Join,
    Leave,
    Link,
    Partition,
    PowerCut,
    Reset,
    Slow,
)

#: Times are drawn to so many per second, so that plans written from them read well.
_PER_SECOND = 1000


@dataclass(frozen=True, slots=True)
class Draw:
    """A fault about to be drawn: it strikes `host` after `drawn_at` seconds and is over at `stop`.

    start: from when on anything may happen. spans: shortest and longest seconds it may last.
    """

    chance: Random
    hosts: Hosts
    host: str
    start: float
    drawn_at: float
    stop: float
    spans: tuple[float, float]

    @property
    def at(self) -> float:
        return max(self.start, _floored(self.drawn_at))

    def lasts(self) -> float:
        """Seconds, every order of magnitude as likely."""
        left = self.stop - self.at
        return max(min(_floored(self.between(*self.spans)), _floored(left)), 0.1 / _PER_SECOND)

    def between(self, low: float, high: float) -> float:
        """Log-uniform between two numbers, to three digits."""
        low, high = max(low, 1e-6), max(high, 1e-6)
        drawn = math.exp(self.chance.uniform(math.log(low), math.log(high)))
        return float(f"{drawn:.3g}")

    def other(self) -> str:
        """Whom the host talks to: a worker to servers and supervisor, those to everyone."""
        peers = self.hosts.all
        if self.host in self.hosts.workers:
            peers = tuple(name for name in peers if name not in self.hosts.workers)
        others = [name for name in peers if name != self.host] or list(self.hosts.all)
        return others[self.chance.randrange(len(others))]


def _crash(draw: Draw) -> list[Fault]:
    return [Crash(on=draw.host, at=draw.at, restart_after=draw.lasts())]


def _power_cut(draw: Draw) -> list[Fault]:
    return [PowerCut(on=draw.host, at=draw.at, restart_after=draw.lasts())]


def _leave(draw: Draw) -> list[Fault]:
    return [Leave(on=draw.host, at=draw.at, restart_after=draw.lasts())]


def _join(draw: Draw) -> list[Fault]:
    """A late comer: it is sent away at the start, while it may still be on its way in."""
    return [Leave(on=draw.host, at=draw.start), Join(on=draw.host, at=draw.at)]


def _freeze(draw: Draw) -> list[Fault]:
    return [Freeze(on=draw.host, at=draw.at, seconds=draw.lasts())]


def _slow(draw: Draw) -> list[Fault]:
    factor = draw.between(1.5, 20.0)
    return [Slow(on=draw.host, factor=factor, at=draw.at, seconds=draw.lasts())]


def _partition(draw: Draw) -> list[Fault]:
    sides = (draw.host, draw.other())
    between = sides if draw.chance.random() < 0.5 else sides[::-1]
    if sides[0] == sides[1]:
        return []
    one_way = draw.chance.random() < 0.5
    return [Partition(between=between, one_way=one_way, at=draw.at, seconds=draw.lasts())]


def _reset(draw: Draw) -> list[Fault]:
    return [Reset(on=draw.host, at=draw.at)]


def _half_open(draw: Draw) -> list[Fault]:
    return [HalfOpen(on=draw.host, at=draw.at)]


def _link(draw: Draw) -> list[Fault]:
    """One to three things at a time go wrong with a link."""
    possible = {
        "bits_per_second_factor": draw.between(0.02, 0.9),
        "delay_seconds": draw.between(0.001, 0.3),
        "jitter_seconds": draw.between(0.001, 0.1),
        "loss": draw.between(0.001, 0.15),
        "duplication": draw.between(0.001, 0.1),
        "reordering": draw.between(0.001, 0.2),
        "corruption": draw.between(0.001, 0.05),
        "corruption_undetected": draw.between(0.01, 0.3),
    }
    chosen = sorted(draw.chance.sample(list(possible), draw.chance.randint(1, 3)))
    changes = {name: possible[name] for name in chosen}
    link = Link(on=draw.host, at=draw.at, seconds=draw.lasts())
    return [msgspec.structs.replace(link, **changes)]


def _disk_full(draw: Draw) -> list[Fault]:
    return [DiskFull(on=draw.host, at=draw.at, seconds=draw.lasts())]


def _disk_slow(draw: Draw) -> list[Fault]:
    factor = draw.between(2.0, 100.0)
    return [DiskSlow(on=draw.host, factor=factor, at=draw.at, seconds=draw.lasts())]


def _disk_rot(draw: Draw) -> list[Fault]:
    return [DiskRot(on=draw.host, at=draw.at)]


def _clock_skew(draw: Draw) -> list[Fault]:
    """A date that is wrong by seconds to a year, or a clock that is a bad one."""
    sign = 1.0 if draw.chance.random() < 0.5 else -1.0
    jumps = draw.chance.random() < 0.5
    by_seconds = sign * draw.between(1.0, 3e7) if jumps else 0.0
    drift = 0.0 if jumps else sign * draw.between(1e-4, 2e-2)
    return [
        ClockSkew(
            on=draw.host, by_seconds=by_seconds, drift=drift, at=draw.at, seconds=draw.lasts()
        )
    ]


#: By kind, as plans name it.
DRAWN: dict[str, Callable[[Draw], list[Fault]]] = {
    "crash": _crash,
    "power-cut": _power_cut,
    "leave": _leave,
    "join": _join,
    "freeze": _freeze,
    "slow": _slow,
    "partition": _partition,
    "reset": _reset,
    "half-open": _half_open,
    "link": _link,
    "disk-full": _disk_full,
    "disk-slow": _disk_slow,
    "disk-rot": _disk_rot,
    "clock-skew": _clock_skew,
}


def _floored(seconds: float) -> float:
    return math.floor(seconds * _PER_SECOND) / _PER_SECOND
