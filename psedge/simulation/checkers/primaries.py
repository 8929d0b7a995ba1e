"""Invariant 2: at most one server writes to a shard, the one that was given it last.

A supervisor may hand a shard out twice before training begins, when a server did not answer; what
counts is who takes pushes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psedge.protocol.shards import ShardState
from psedge.protocol.wire import Status
from psedge.server.push import Outcome
from psedge.server.push import Push as ServerPush
from psedge.server.shard import Shard
from psedge.simulation.checkers.checker import Checker
from psedge.supervisor.service import Supervisor


@dataclass(frozen=True, slots=True)
class _Primary:
    """term: counts the starts of supervisors, each of which hands its shards out anew."""

    host: str
    term: int


class Primaries(Checker):
    """Follows who was given which shard in which term."""

    invariant = 2

    def __init__(self, *further: Any) -> None:
        super().__init__(*further)
        self._term = 0
        self._made: dict[Shard, _Primary] = {}
        #: The newest that each number stands for.
        self._newest: dict[int, Shard] = {}
        #: The newest term of which a server process has been given a shard.
        self._told: dict[str, int] = {}

    def run_started(self, host: str, supervisor: Supervisor) -> None:
        self._term += 1

    def shard_made(self, host: str, shard: Shard, state: ShardState | None) -> None:
        number = shard.assignment.shard
        self._made[shard] = _Primary(host, self._term)
        self._newest[number] = shard
        self._told[host] = self._term

    def shard_pushed(self, host: str, shard: Shard, push: ServerPush, outcome: Outcome) -> None:
        primary = self._made.get(shard)
        if primary is None or outcome.status is Status.DUPLICATE:
            return
        number = shard.assignment.shard
        told = self._told.get(host, 0)
        if primary.term < told:
            self.violated(
                host,
                f"push {push.sequence} of worker {push.worker} went into shard {number} of term "
                f"{primary.term}, and this server knows of term {told}",
            )
        elif primary.term == self._term and self._newest.get(number) is not shard:
            self.violated(
                host,
                f"push {push.sequence} of worker {push.worker} went into shard {number}, which "
                "was handed out again in this term",
            )

    def host_gone(self, host: str) -> None:
        self._told.pop(host, None)
        for shard in [shard for shard, primary in self._made.items() if primary.host == host]:
            del self._made[shard]
