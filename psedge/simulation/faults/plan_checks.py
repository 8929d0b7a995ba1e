"""What the types of a fault plan cannot say: who exists, what goes together, what has an effect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from psedge.protocol.errors import ConfigError
from psedge.simulation.faults.hosts import Hosts, Target, shortened
from psedge.simulation.faults.kinds import (
    KINDS,
    LINK_FIELDS,
    ClockSkew,
    Fault,
    Link,
    Partition,
)
from psedge.simulation.faults.moment import check_moment
from psedge.simulation.faults.plan_values import nearest
from psedge.simulation.faults.random_plan import RandomFaults, check_number


def check_fault(fault: Fault, hosts: Hosts, place: str) -> None:
    """Raises ConfigError with the first mistake. place: where the fault stands in its plan."""
    _check_time(fault, hosts, place)
    if isinstance(fault, Partition):
        _check_sides(fault, hosts, place)
        return
    _check_target(fault.on, hosts, f"{place}: on")
    _check_target(getattr(fault, "peer", "all"), hosts, f"{place}: peer")
    if isinstance(fault, Link) and not fault.changes():
        raise ConfigError(f"{place} changes nothing; give one of {', '.join(LINK_FIELDS)}")
    if isinstance(fault, ClockSkew) and not (fault.by_seconds or fault.drift):
        raise ConfigError(f"{place} changes nothing; give by_seconds or drift")


def check_random(random: RandomFaults, hosts: Hosts, place: str) -> None:
    """Raises ConfigError with the first mistake. place: of the `[random]` table."""
    low, high = random.seconds
    if not 0 < low <= high:
        raise ConfigError(
            f"{place}: seconds = [{low:g}, {high:g}]: expected the shortest time, above 0, and "
            "then the longest"
        )
    if random.stop <= random.start:
        raise ConfigError(f"{place}: stop = {random.stop:g} is not after start = {random.start:g}")
    if not random.rates:
        raise ConfigError(f"{place} draws nothing; {_RATES_EXAMPLE}")
    for group, rates in random.rates.items():
        _check_target(group, hosts, f"{place}: rates")
        for kind in rates:
            if kind not in KINDS:
                raise ConfigError(
                    f'{place}: rates.{group}: there is no kind "{kind}"{nearest(kind, KINDS)}'
                )
    with _located(place):
        check_number(random, hosts, random.stop)


_RATES_EXAMPLE = "add a table of a role or host, such as [random.rates.workers] with crash = 20.0"


def check_rates_are_grouped(rates: object, place: str) -> None:
    """Raises ConfigError for rates that say how often, but not on whom."""
    for key, value in rates.items() if isinstance(rates, dict) else ():
        if not isinstance(value, dict):
            raise ConfigError(f"{place}: rates.{key} says nothing of whom; {_RATES_EXAMPLE}")


def _check_time(fault: Fault, hosts: Hosts, place: str) -> None:
    if fault.at is None and not fault.after:
        raise ConfigError(
            f'{place} has no time; give at = 12.5 in virtual seconds, or after = "checkpoint 3"'
        )
    if fault.at is not None and fault.after:
        raise ConfigError(f"{place} has both at and after; give one of them")
    if fault.at is not None and fault.delay:
        raise ConfigError(f"{place}: delay goes with after; add it to at = {fault.at:g} instead")
    if fault.after:
        with _located(f'{place}: after = "{fault.after}"'):
            check_moment(fault.after, hosts)


def _check_sides(fault: Partition, hosts: Hosts, place: str) -> None:
    for side in fault.between:
        _check_target(side, hosts, f"{place}: between")
    first, second = (hosts.named(side) for side in fault.between)
    both = [name for name in first if name in second]
    if both:
        stand = "stands" if len(both) == 1 else "stand"
        raise ConfigError(f"{place}: between: {shortened(both)} {stand} on both sides")


def _check_target(target: Target, hosts: Hosts, place: str) -> None:
    with _located(place):
        found = hosts.named(target)
    if not found:
        what = f"there are no {target}" if target else "the list is empty"
        raise ConfigError(f"{place}: {what}")


@contextmanager
def _located(place: str) -> Iterator[None]:
    """Say where in a plan a mistake is."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
