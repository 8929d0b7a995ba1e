"""Which servers hold copies of which shard: at the start, and after one of them was lost.

Pure functions of who is there; each choice comes with its reason. How long a copy that comes and
goes has to wait before it may come again is decided here too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from psedge.protocol.errors import ConfigError
from psedge.protocol.replicas import Reign

#: First and longest wait of a copy that was dropped from its set before it may learn again; each
#: time it is dropped it waits twice as long.
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
#: A copy that stayed in the set for so long has made up for what was before.
QUIET_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where one shard begins: numbers of servers."""

    shard: int
    primary: int
    backups: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A live server. copies: of shards, that it has a part in. keeps: shards of which it has a copy
    without a part."""

    server: int
    lossless: tuple[str, ...] = ()
    copies: int = 0
    keeps: Collection[int] = ()


def place(shards: int, servers: Sequence[int], replicas: int) -> list[Place]:
    """The primary of shard i is the i-th server, its backups are the next ones in a ring.

    servers: live ones, in the order in which they registered. Raises ConfigError if there is none.
    """
    if not servers:
        raise ConfigError("there is no live server that could hold the model")
    copies = min(replicas, len(servers))
    found = []
    for shard in range(shards):
        ring = [servers[(shard + step) % len(servers)] for step in range(copies)]
        backups = f", backed by {_named(ring[1:])}" if copies > 1 else ", without a backup"
        reason = f"shard {shard} begins on server {ring[0]}{backups}"
        found.append(Place(shard, ring[0], tuple(ring[1:]), reason))
    return found


def recruit(
    reign: Reign,
    offers: Sequence[Offer],
    wanted: int,
    lossless: Collection[str],
    blocked: Mapping[int, float],
) -> tuple[int | None, str]:
    """The live server that is to learn a shard of which there are too few copies, and why it.

    wanted: copies of the shard. lossless: stages that its servers must be able to undo.
    blocked: servers that have to wait, and for how many seconds.
    None: there are enough copies, or nobody can take one.
    """
    copies = 1 + len(reign.backups) + len(reign.learners)
    if copies >= wanted:
        return None, f"shard {reign.shard} has {copies} of {wanted} copies"
    free = [offer for offer in offers if reign.role_of(offer.server) is None]
    able = [offer for offer in free if set(lossless) <= set(offer.lossless)]
    ready = [offer for offer in able if offer.server not in blocked]
    lack = f"shard {reign.shard} has {copies} of {wanted} copies"
    if not ready:
        return None, f"{lack}; {_why_nobody(free, able, blocked)}"
    best = min(
        ready,
        key=lambda offer: (reign.shard not in offer.keeps, offer.copies, offer.server),
    )
    return best.server, f"{lack}; server {best.server} {_why(best, reign.shard)}"


def _why(offer: Offer, shard: int) -> str:
    if shard in offer.keeps:
        return "has an older copy"
    if not offer.copies:
        return "is a spare"
    return f"has the fewest others, {offer.copies}"


def _why_nobody(free: Sequence[Offer], able: Sequence[Offer], blocked: Mapping[int, float]) -> str:
    if not free:
        return "every live server has one"
    if not able:
        return f"{_named([offer.server for offer in free])} lacks a lossless stage of this run"
    first = min(able, key=lambda offer: blocked[offer.server])
    return f"server {first.server} came and went, and waits {blocked[first.server]:.0f} s more"


def _named(servers: Sequence[int]) -> str:
    return ("server " if len(servers) == 1 else "servers ") + ", ".join(map(str, servers))


@dataclass(slots=True)
class _Past:
    """Of one copy. times: how often it was dropped without a quiet time between."""

    times: int = 0
    dropped_at: float = 0.0
    admitted_at: float | None = None


class BackOff:
    """How long copies that come and go have to wait; by shard and address, which a server that was
    started anew keeps."""

    def __init__(self) -> None:
        self._past: dict[tuple[int, str], _Past] = {}

    def dropped(self, shard: int, url: str, now: float) -> float:
        """A copy left the set; returns the seconds until it may come again."""
        past = self._past.setdefault((shard, url), _Past())
        if past.admitted_at is not None and now - past.admitted_at >= QUIET_SECONDS:
            past.times = 0
        past.times += 1
        past.dropped_at, past.admitted_at = now, None
        return self.wait(shard, url, now)

    def admitted(self, shard: int, url: str, now: float) -> None:
        """A copy came into the set."""
        past = self._past.get((shard, url))
        if past is not None:
            past.admitted_at = now

    def wait(self, shard: int, url: str, now: float) -> float:
        """Seconds until a copy may come again; 0: it may."""
        past = self._past.get((shard, url))
        if past is None or not past.times:
            return 0.0
        doubled = FIRST_WAIT_SECONDS * 2.0 ** min(past.times - 1, 16)
        whole: float = min(doubled, LONGEST_WAIT_SECONDS)
        return max(past.dropped_at + whole - now, 0.0)
