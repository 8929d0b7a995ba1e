"""Fault plans in TOML: what goes wrong in a simulation, when, and with whom.

docs/fault-plans.md describes the format for people, with an example of each kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from psedge.protocol.errors import ConfigError
from psedge.simulation.faults.hosts import Hosts
from psedge.simulation.faults.kinds import KINDS, Fault
from psedge.simulation.faults.plan_checks import (
    check_fault,
    check_random,
    check_rates_are_grouped,
)
from psedge.simulation.faults.plan_values import check_keys, convert_values, nearest
from psedge.simulation.faults.random_plan import RandomFaults, drawn
from psedge.toml_config import read_toml
from psedge.toml_text import dumps


class FaultPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """faults: each strikes once, in the order of the plan. random: faults by chance besides."""

    faults: tuple[Fault, ...] = ()
    random: RandomFaults | None = None

    def concrete(self, hosts: Hosts, seed: int, horizon_seconds: float) -> tuple[Fault, ...]:
        """The faults of the run with this seed, those by chance included."""
        if self.random is None:
            return self.faults
        return self.faults + drawn(self.random, hosts, seed, horizon_seconds)


def load_plan(path: Path, hosts: Hosts) -> FaultPlan:
    """Read a plan for these hosts. Raises ConfigError with one line on the first mistake."""
    raw, place = read_toml(path), str(path)
    check_keys(raw, ("fault", "random"), place)
    tables = raw.get("fault", [])
    if not isinstance(tables, list):
        raise ConfigError(f"{place}: [fault]: write [[fault]], with double brackets")
    faults = tuple(
        _fault(table, f"{place}: fault {number}", hosts) for number, table in enumerate(tables, 1)
    )
    random = _random(raw["random"], f"{place}: [random]", hosts) if "random" in raw else None
    return FaultPlan(faults, random)


def to_toml(plan: FaultPlan) -> str:
    """A plan that `load_plan` reads back; keys with their default are left out."""
    table: dict[str, Any] = {}
    if plan.faults:
        table["fault"] = msgspec.to_builtins(plan.faults)
    if plan.random is not None:
        table["random"] = msgspec.to_builtins(plan.random)
    return dumps(table) if table else "# Nothing goes wrong.\n"


def _fault(raw: object, place: str, hosts: Hosts) -> Fault:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{place}: expected a table, written as [[fault]]")
    type_ = _type_of(raw, place)
    place = f"{place} ({raw['kind']})"
    keys = {key: value for key, value in raw.items() if key != "kind"}
    check_keys(keys, type_.__struct_fields__, place)
    fault: Fault = convert_values(keys, type_, place)
    check_fault(fault, hosts, place)
    return fault


def _type_of(raw: Mapping[str, Any], place: str) -> type[Fault]:
    if "kind" not in raw:
        raise ConfigError(f"{place} has no kind; known are {', '.join(KINDS)}")
    kind = raw["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f'{place}: there is no kind "{kind}"{nearest(str(kind), KINDS)}')
    return KINDS[kind]


def _random(raw: object, place: str, hosts: Hosts) -> RandomFaults:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{place}: write [random], with single brackets")
    check_keys(raw, RandomFaults.__struct_fields__, place)
    check_rates_are_grouped(raw.get("rates"), place)
    random = convert_values(raw, RandomFaults, place)
    check_random(random, hosts, place)
    return random
