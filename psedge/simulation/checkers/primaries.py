"""Invariant 2: at most one primary per shard and term, and no write of an old term counts.

A deposed primary that has not heard of it yet may take pushes; what it must not do is say so to a
worker, unless those that came after it know the push too. Of the copies that may follow it, the one
that has most of the log does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from psedge.protocol.replicas import Position
from psedge.protocol.shards import ShardState
from psedge.protocol.wire import Header, Status
from psedge.server.push import Outcome
from psedge.server.push import Push as ServerPush
from psedge.server.replica import Replica
from psedge.server.service import ShardService
from psedge.server.shard import Shard
from psedge.simulation.checkers.checker import Checker
from psedge.simulation.checkers.lineage import Reigning
from psedge.supervisor.service import Supervisor

#: The note of a decision.
_PROMOTION = re.compile(r"shard (\d+): promote server (\d+) ")
#: A worker under one incarnation.
_Sender = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Answer:
    """The acknowledgement of the highest term that a shard has given."""

    host: str
    term: int


class Primaries(Checker):
    """Follows who reigns over which shard in which term, and who acknowledges."""

    invariant = 2

    def __init__(self, *further: Any) -> None:
        super().__init__(*further)
        self._services: dict[str, ShardService] = {}
        self._supervisors: dict[str, Supervisor] = {}
        self._reigning = Reigning()
        #: Which process was the primary, by shard and term.
        self._holders: dict[tuple[int, int], tuple[str, ShardService | None]] = {}
        #: The highest term that a copy on a host has promised, by host and shard.
        self._promised: dict[tuple[str, int], int] = {}
        self._answered: dict[int, _Answer] = {}
        #: The latest push of each sender in each copy.
        self._arrived: dict[Shard, dict[_Sender, int]] = {}

    def server_opened(self, host: str, service: ShardService) -> None:
        self._services[host] = service

    def run_started(self, host: str, supervisor: Supervisor) -> None:
        self._supervisors[host] = supervisor
        if self._reigning.run_started(supervisor):
            self._holders.clear()
            self._promised.clear()
            self._answered.clear()

    def shard_made(self, host: str, shard: Shard, state: ShardState | None) -> None:
        self._reigning.made(shard)

    def noted(self, host: str, text: str) -> None:
        supervisor, found = self._supervisors.get(host), _PROMOTION.match(text)
        if supervisor is None or found is None:
            return
        shard, chosen = int(found[1]), int(found[2])
        sealed = supervisor.sealed(shard)
        most = max(sealed.values(), default=Position())
        if sealed.get(chosen, most) < most:
            self.violated(
                host,
                f"server {chosen}, whose copy of shard {shard} ends with entry "
                f"{sealed[chosen].index}, is promoted though another one has entry {most.index}",
            )

    def replica_changed(self, host: str, replica: Replica, what: str) -> None:
        number = replica.shard.assignment.shard
        if not self._reigning.is_of_this_run(replica.shard):
            return
        promised = self._promised.get((host, number), 0)
        if replica.term < promised and what != "dropped":
            self.violated(
                host,
                f"the copy of shard {number} is back in term {replica.term}, after it promised to "
                f"take part in none below {promised}",
            )
        self._promised[host, number] = max(promised, replica.term)
        if what == "dropped":
            self._promised.pop((host, number), None)
        self._reigning.changed(host, replica)
        if replica.role != "primary":
            return
        mine = (host, self._services.get(host))
        holder = self._holders.setdefault((number, replica.term), mine)
        if holder != mine:
            self.violated(
                host,
                f"becomes primary of shard {number} in term {replica.term}, in which "
                f"{holder[0]} is the primary",
            )

    def shard_pushed(self, host: str, shard: Shard, push: ServerPush, outcome: Outcome) -> None:
        arrived = self._arrived.setdefault(shard, {})
        sender = (push.worker, push.incarnation)
        arrived[sender] = max(push.sequence, arrived.get(sender, 0))
        replica = self._replica(host, shard)
        if not self._reigning.is_of_this_run(shard):
            return
        if replica is None or outcome.status is Status.DUPLICATE or replica.role != "primary":
            return
        number = shard.assignment.shard
        promised = self._promised.get((host, number), 0)
        if replica.reign is not None and replica.reign.term < promised:
            self.violated(
                host,
                f"push {push.sequence} of worker {push.worker} went into shard {number} of term "
                f"{replica.reign.term}, and this copy has promised term {promised}",
            )

    def push_answered(self, host: str, replica: Replica, header: Header) -> None:
        number = replica.shard.assignment.shard
        if not self._reigning.is_of_this_run(replica.shard):
            return
        term = replica.term if replica.reign is None else replica.reign.term
        latest, reigning = self._answered.get(number), self._reigning.of(number)
        if latest is None or term > latest.term:
            self._answered[number] = _Answer(host, term)
        elif term == latest.term and host != latest.host:
            self.violated(
                host,
                f"acknowledges a push to shard {number} in term {term}, and so has {latest.host}",
            )
        if reigning is not None and term < reigning.term and not self._known(number, header):
            self.violated(
                host,
                f"acknowledges push {header.sequence} of worker {header.worker} to shard {number} "
                f"in term {term}; {reigning.host} is its primary in term {reigning.term}, and does "
                "not know this one",
            )

    def host_gone(self, host: str) -> None:
        service = self._services.pop(host, None)
        self._supervisors.pop(host, None)
        for key in [key for key in self._promised if key[0] == host]:
            del self._promised[key]
        if service is not None:
            for hosted in service.hosted.values():
                self._arrived.pop(hosted.shard, None)

    def _known(self, number: int, header: Header) -> bool:
        """Whether the newest primary has a push that an older one acknowledges late."""
        shard = self._reigning.shard(number)
        if shard is None:
            return False
        progress = {
            (done.worker, done.incarnation): done.sequence for done in shard.report().workers
        }
        sender = (header.worker, header.incarnation)
        arrived = self._arrived.get(shard, {}).get(sender, 0)
        return max(arrived, progress.get(sender, 0)) >= header.sequence

    def _replica(self, host: str, shard: Shard) -> Replica | None:
        """The copy that serves a shard; None while one is only in the making."""
        service = self._services.get(host)
        hosted = None if service is None else service.hosted.get(shard.assignment.shard)
        replica = None if hosted is None else hosted.replica
        return replica if replica is not None and replica.shard is shard else None
