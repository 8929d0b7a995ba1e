"""Moments that a fault can wait for: "checkpoint 3", "push 500", "join pi-2", "training"."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from psedge.protocol.errors import ConfigError
from psedge.simulation.faults.hosts import Hosts

COUNTED = ("checkpoint", "epoch", "push", "snapshot")
_FORMS = '"training", "checkpoint 3", "snapshot 3", "epoch 1", "push 500" or "join HOST"'


class Moment(NamedTuple):
    """word: what happens. nth: the how-manieth, or 0. host: who, or nothing."""

    word: str
    nth: int = 0
    host: str = ""


def moment_of(text: str) -> Moment:
    """Raises ConfigError for what is no moment. Whether the host exists is not looked at."""
    word, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    if word == "training" and not rest:
        return Moment(word)
    if word == "join" and rest:
        return Moment(word, host=rest)
    if word in COUNTED and rest.isascii() and rest.isdigit() and int(rest) > 0:
        return Moment(word, int(rest))
    if word in COUNTED or word == "join":
        needs = "the name of a host" if word == "join" else "a whole number from 1 on"
        example = "join pi-1" if word == "join" else f"{word} 3"
        raise ConfigError(f'"{word}" needs {needs}, such as "{example}"')
    if word == "training":
        raise ConfigError(f'"{word}" starts once and takes no "{rest}"')
    near = difflib.get_close_matches(word, ("training", "join", *COUNTED), n=1)
    hint = f'did you mean "{" ".join((near[0], rest)).strip()}"?' if near else f"write {_FORMS}"
    raise ConfigError(f"nothing of that name happens; {hint}")


def check_moment(text: str, hosts: Hosts) -> None:
    """Raises ConfigError for what never happens among these hosts."""
    moment = moment_of(text)
    if moment.host:
        (host, *others) = hosts.named(moment.host)
        if others or host != moment.host:
            raise ConfigError(f'"join" needs the name of one host, and {moment.host} is a role')
        if host not in hosts.workers:
            raise ConfigError(f'"join" is of workers, and {host} is a server')
