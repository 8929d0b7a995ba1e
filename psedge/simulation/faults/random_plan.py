"""Faults by chance: rates become concrete faults with times, the same ones for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from psedge.protocol.errors import ConfigError
from psedge.simulation.faults.draw import DRAWN, Draw
from psedge.simulation.faults.fault import Seconds
from psedge.simulation.faults.hosts import Hosts
from psedge.simulation.faults.kinds import Fault
from psedge.simulation.seeds import random_of

#: More faults than this are expected of nobody's plan, but of a rate with a few zeros too many.
MOST_FAULTS = 20_000.0
_HOUR = 3600.0
#: Of more workers than this, as many are struck by default as if there were only so many.
_FEW_WORKERS = 8.0
#: What strikes later than this many seconds before the end would be over at once.
_TICK = 0.001

Rate = Annotated[float, Meta(ge=0)]


class RandomFaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often which faults strike whom.

    rates: by role or host, then by kind. per: what a rate counts, faults per hour on each of the
    hosts, or in the whole run on all of them together. start, stop: virtual seconds between which
    faults strike; what lasts ends by `stop` too. seconds: shortest and longest time that one lasts.
    """

    stop: Seconds
    rates: dict[str, dict[str, Rate]]
    per: Literal["host-hour", "run"] = "host-hour"
    start: Seconds = 0.0
    seconds: tuple[Seconds, Seconds] = (0.5, 15.0)


def drawn(
    random: RandomFaults, hosts: Hosts, seed: int, horizon_seconds: float
) -> tuple[Fault, ...]:
    """The faults of one run, by time; none strikes or lasts past `stop`, or past the horizon.

    Each kind on each group of hosts draws from a source of its own: changing the rate of one does
    not change the others. Raises ConfigError when far too many are to be expected.
    """
    stop = min(random.stop, horizon_seconds)
    check_number(random, hosts, stop)
    found: list[Fault] = []
    for group, rates in random.rates.items():
        names = hosts.named(group)
        for kind, rate in rates.items():
            chance = random_of(seed, "faults", group, kind)
            faults_per_second = _per_second(random, rate, len(names), stop)
            at = random.start
            while faults_per_second > 0:
                at += chance.expovariate(faults_per_second)
                if at + _TICK > stop:
                    break
                host = names[chance.randrange(len(names))]
                draw = Draw(chance, hosts, host, random.start, at, stop, random.seconds)
                found.extend(DRAWN[kind](draw))
    return tuple(sorted(found, key=lambda fault: fault.at or 0.0))


def expected(random: RandomFaults, hosts: Hosts, horizon_seconds: float) -> float:
    """How many faults a run has on average."""
    stop = min(random.stop, horizon_seconds)
    return sum(
        _per_second(random, rate, len(hosts.named(group)), stop) * max(0.0, stop - random.start)
        for group, rate in _flat(random)
    )


def check_number(random: RandomFaults, hosts: Hosts, horizon_seconds: float) -> None:
    """Raises ConfigError when far too many faults are to be expected."""
    number = expected(random, hosts, horizon_seconds)
    if number > MOST_FAULTS:
        raise ConfigError(
            f"some {number:.0f} faults would be drawn, and more than {MOST_FAULTS:.0f} must be a "
            "mistake: lower the rates, or set an earlier stop"
        )


def default_random(hosts: Hosts) -> RandomFaults:
    """What the test-suite's schedules draw from: every kind, some eight faults in a minute.

    Everything is over after a minute, so that a run can come to its end. The supervisor never
    leaves, because that ends the run in order.
    """
    as_few = min(1.0, _FEW_WORKERS / max(1, len(hosts.workers)))
    workers = {kind: rate * as_few for kind, rate in _WORKERS.items()}
    rates = {"servers": _SERVERS, **({"workers": workers} if hosts.workers else {})}
    if hosts.apart:
        rates["supervisor"] = _SERVERS
    return RandomFaults(rates=rates, start=1.0, stop=60.0, seconds=(0.3, 15.0))


#: Faults per hour on each worker. Workers keep nothing on disk.
_WORKERS = {
    "crash": 12.0,
    "power-cut": 4.0,
    "leave": 4.0,
    "join": 4.0,
    "freeze": 6.0,
    "slow": 6.0,
    "partition": 6.0,
    "reset": 6.0,
    "half-open": 3.0,
    "link": 6.0,
    "clock-skew": 3.0,
}
#: Faults per hour on each server, and on a supervisor with a host of its own.
_SERVERS = {
    "crash": 6.0,
    "power-cut": 3.0,
    "freeze": 6.0,
    "slow": 4.0,
    "partition": 6.0,
    "reset": 6.0,
    "half-open": 2.0,
    "link": 6.0,
    "disk-full": 6.0,
    "disk-slow": 6.0,
    "disk-rot": 2.0,
    "clock-skew": 4.0,
}


def _flat(random: RandomFaults) -> Iterator[tuple[str, float]]:
    for group, rates in random.rates.items():
        for rate in rates.values():
            yield group, rate


def _per_second(random: RandomFaults, rate: float, hosts: int, stop: float) -> float:
    if random.per == "run":
        window = stop - random.start
        return rate / window if hosts and window > 0 else 0.0
    return rate * hosts / _HOUR
