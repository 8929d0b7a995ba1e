"""The hosts of a virtual cluster, and the roles by which a fault plan can name several at once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from psedge.protocol.errors import ConfigError

#: A host's name, a role, or several of either.
Target = str | tuple[str, ...]

ROLES = ("workers", "servers", "supervisor", "all")
#: More names than this are not spelled out for people.
_SPELLED_OUT = 8


@dataclass(frozen=True, slots=True)
class Hosts:
    """Names in the order of the config. servers: the first one also holds the supervisor."""

    workers: tuple[str, ...]
    servers: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return self.servers + self.workers

    def named(self, target: Target) -> tuple[str, ...]:
        """The hosts that `target` means, each once, in the order named.

        Raises ConfigError for a name that is neither a host nor a role.
        """
        names = (target,) if isinstance(target, str) else target
        return tuple(dict.fromkeys(host for name in names for host in self._of(name)))

    def _of(self, name: str) -> tuple[str, ...]:
        roles = {
            "workers": self.workers,
            "servers": self.servers,
            "supervisor": self.servers[:1],
            "all": self.all,
        }
        if name in roles:
            return roles[name]
        if name in self.all:
            return (name,)
        near = difflib.get_close_matches(name, (*ROLES, *self.all), n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"hosts are {shortened(self.all)}"
        known = "" if near else f"; roles are {', '.join(ROLES)}"
        raise ConfigError(f'there is no host or role "{name}"; {hint}{known}')


def label(target: Target) -> str:
    """A target as a timeline shows it."""
    return target if isinstance(target, str) else shortened(target)


def shortened(names: Sequence[str]) -> str:
    """The names with commas; of many, the first few and how many there are."""
    if len(names) <= _SPELLED_OUT:
        return ", ".join(names)
    return f"{', '.join(names[:_SPELLED_OUT])}, ... ({len(names)} in all)"
