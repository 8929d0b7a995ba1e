"""Who can be struck, and whether everybody is there: read off a run's status.

A pure core.
"""

from __future__ import annotations

from dataclasses import dataclass

from psedge.chaos.strikes import Role
from psedge.protocol.status import ServerStatus, Status

_LIVE = ("alive", "idle")
_THERE = ("alive", "suspect", "spare")


@dataclass(frozen=True, slots=True)
class Target:
    """name: for people. process: its number. machine: as the process itself calls it."""

    name: str
    process: int
    machine: str


@dataclass(frozen=True, slots=True)
class Census:
    """How many there are. copies: of each shard, by its number, those that count."""

    servers: int
    workers: int
    copies: dict[int, int]


def everybody(status: Status) -> list[Target]:
    """Every live process of the run, once for each part that it plays."""
    servers = [
        Target(f"server {server.server}", server.process, server.machine)
        for server in _servers(status)
    ]
    return [*_supervisor(status), *servers, *_workers(status)]


def targets_of(status: Status) -> dict[Role, list[Target]]:
    """The processes in each role; a server may be the primary of one shard and back up another.

    A primary without backups is nobody's target: its death is the end of what it holds.
    """
    found: dict[Role, list[Target]] = {}
    primaries: dict[int, list[int]] = {}
    backups: dict[int, list[int]] = {}
    for shard in status.shards:
        if shard.backups:
            primaries.setdefault(shard.primary, []).append(shard.shard)
        for number in shard.backups:
            backups.setdefault(number, []).append(shard.shard)
    servers = {server.server: server for server in _servers(status)}
    held: tuple[tuple[Role, dict[int, list[int]]], ...] = (
        ("primary", primaries),
        ("backup", backups),
    )
    for role, shards in held:
        for number in sorted(shards.keys() & servers.keys()):
            row = servers[number]
            name = f"server {number}, {role} of {_shards(shards[number])}"
            found.setdefault(role, []).append(Target(name, row.process, row.machine))
    parts: tuple[tuple[Role, list[Target]], ...] = (
        ("supervisor", _supervisor(status)),
        ("worker", _workers(status)),
    )
    return found | {role: targets for role, targets in parts if targets}


def census(status: Status) -> Census:
    """How many take part now; those from whom a supervisor just started has not heard do not."""
    return Census(
        len(_servers(status)),
        len(_workers(status)),
        {shard.shard: 1 + len(shard.backups) for shard in status.shards if shard.primary >= 0},
    )


def is_whole(status: Status, best: Census, process: int = 0, gone: int = 0) -> bool:
    """Whether as many take part as when the cluster was at its best.

    process: one of them must be this one, 0 for none. gone: none of them may be this one.
    """
    now = census(status)
    if now.servers < best.servers or now.workers < best.workers:
        return False
    if any(now.copies.get(shard, 0) < copies for shard, copies in best.copies.items()):
        return False
    found = {target.process for target in everybody(status)}
    return process in {0, *found} and gone not in found


def _supervisor(status: Status) -> list[Target]:
    known = bool(status.process)
    return [Target("the supervisor", status.process, status.machine)] if known else []


def _servers(status: Status) -> list[ServerStatus]:
    return [server for server in status.servers if server.state in _THERE and server.process]


def _workers(status: Status) -> list[Target]:
    return [
        Target(f"worker {worker.name}", worker.process, worker.machine)
        for worker in status.workers
        if worker.state in _LIVE and worker.process
    ]


def _shards(numbers: list[int]) -> str:
    word = "shard" if len(numbers) == 1 else "shards"
    return f"{word} {', '.join(map(str, sorted(numbers)))}"
