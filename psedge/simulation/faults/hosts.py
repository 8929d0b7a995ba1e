"""The hosts of a virtual cluster, and the roles by which a fault plan can name several at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from psedge.protocol.errors import ConfigError

#: A host's name, a role, or several of either.
Target = str | tuple[str, ...]

ROLES = ("workers", "servers", "supervisor", "all")
#: Roles that move from host to host while a run goes on, each with the number of a shard.
MOVING_ROLES = ("primary", "backup")
#: A host for the supervisor alone has the name of its role.
APART = "supervisor"
#: More names than this are not spelled out for people.
_SPELLED_OUT = 8
_MOVING = re.compile(rf"({'|'.join(MOVING_ROLES)})-(\d+)")


@dataclass(frozen=True, slots=True)
class Hosts:
    """Names in the order of the config.

    servers: those with shards. apart: the supervisor has a host of its own; else it shares that of
    the first server. holders: who has the role `primary` or `backup` of a shard at this moment;
    None: a plan is only being read, and nobody has it yet.
    """

    workers: tuple[str, ...]
    servers: tuple[str, ...]
    apart: bool = False
    holders: Callable[[str, int], tuple[str, ...]] | None = field(default=None, compare=False)

    @property
    def supervisor(self) -> str:
        return APART if self.apart else self.servers[0]

    @property
    def all(self) -> tuple[str, ...]:
        return (APART,) * self.apart + self.servers + self.workers

    def named(self, target: Target) -> tuple[str, ...]:
        """The hosts that `target` means, each once, in the order named.

        A moving role stands for itself while a plan is being read.
        Raises ConfigError for a name that is neither a host nor a role.
        """
        names = (target,) if isinstance(target, str) else target
        return tuple(dict.fromkeys(host for name in names for host in self._of(name)))

    def moving(self, target: Target) -> dict[str, tuple[str, ...]]:
        """The moving roles in `target`, and who has each of them now."""
        names = (target,) if isinstance(target, str) else target
        return {name: self._of(name) for name in names if _MOVING.fullmatch(name)}

    def _of(self, name: str) -> tuple[str, ...]:
        roles = {
            "workers": self.workers,
            "servers": self.servers,
            "supervisor": (self.supervisor,),
            "all": self.all,
        }
        if name in roles:
            return roles[name]
        if name in self.all:
            return (name,)
        moving = _MOVING.fullmatch(name)
        if moving is not None:
            return self._holding(name, moving[1], int(moving[2]))
        raise self._unknown(name)

    def _holding(self, name: str, role: str, shard: int) -> tuple[str, ...]:
        if shard >= len(self.servers):
            raise ConfigError(
                f"there is no {name}: the {len(self.servers)} servers hold as many shards, "
                "counted from 0"
            )
        return (name,) if self.holders is None else self.holders(role, shard)

    def _unknown(self, name: str) -> ConfigError:
        moving = tuple(f"{role}-0" for role in MOVING_ROLES)
        near = difflib.get_close_matches(name, (*ROLES, *self.all, *moving), n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"hosts are {shortened(self.all)}"
        roles = ", ".join((*ROLES, *(f"{role}-SHARD" for role in MOVING_ROLES)))
        known = "" if near else f"; roles are {roles}"
        return ConfigError(f'there is no host or role "{name}"; {hint}{known}')


def label(target: Target) -> str:
    """A target as a timeline shows it."""
    return target if isinstance(target, str) else shortened(target)


def shortened(names: Sequence[str]) -> str:
    """The names with commas; of many, the first few and how many there are."""
    if len(names) <= _SPELLED_OUT:
        return ", ".join(names)
    return f"{', '.join(names[:_SPELLED_OUT])}, ... ({len(names)} in all)"
