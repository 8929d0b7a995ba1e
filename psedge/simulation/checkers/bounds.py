"""Invariant 7: what is refused changes nothing, and nothing that waits grows without a bound.

The bounds of single queues are among the cores' own invariants (`cores.py`); here is what only
shows from outside: a shard before and after, and what a process holds altogether.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

from psedge.compression.codec import Float32Array
from psedge.protocol.shards import Members, ShardState
from psedge.protocol.wire import Status
from psedge.server.aggregation import KEPT_PAYLOADS
from psedge.server.hosted_shard import KEPT_BUFFERS
from psedge.server.ledger import DEPARTED_LIMIT
from psedge.server.push import Outcome
from psedge.server.push import Push as ServerPush
from psedge.server.service import ShardService
from psedge.server.shard import Shard
from psedge.simulation.checkers.checker import Checker
from psedge.worker.push import Push
from psedge.worker.session import Session

#: Requests that wait for an acknowledgement besides two of each worker: those given up meanwhile.
UNACKNOWLEDGED_LIMIT = 64

_Print = tuple[int, ...]


@dataclass(slots=True)
class _Seen:
    """A shard as it was when something was last allowed to change it, and how many members."""

    host: str
    print: _Print
    members: int = 0


class Bounds(Checker):
    """Takes the fingerprint of every shard before and after each push."""

    invariant = 7

    def __init__(self, *further: Any) -> None:
        super().__init__(*further)
        self._shards: dict[Shard, _Seen] = {}
        self._services: dict[str, ShardService] = {}

    def server_opened(self, host: str, service: ShardService) -> None:
        self._services[host] = service

    def shard_made(self, host: str, shard: Shard, state: ShardState | None) -> None:
        self._shards[shard] = _Seen(host, _print(shard), len(shard.members))

    def members_set(self, host: str, shard: Shard, members: Members) -> None:
        seen, now = self._shards[shard], _print(shard)
        if shard.assignment.sync.mode != "bsp" and now != seen.print:
            self.violated(host, f"{_name(shard)} was changed by a change of its members")
        seen.print = now
        # Those who left with the latest change come on top of what is kept.
        departed = len(shard.report().workers) - len(shard.members)
        if departed > DEPARTED_LIMIT + seen.members:
            self.violated(host, f"{_name(shard)} remembers {departed} workers that have left")
        seen.members = len(shard.members)

    def shard_pushing(self, host: str, shard: Shard, push: ServerPush) -> None:
        seen, now = self._shards[shard], _print(shard)
        if now != seen.print:
            self.violated(host, f"{_name(shard)} was changed by something that was no push")
            seen.print = now

    def shard_pushed(self, host: str, shard: Shard, push: ServerPush, outcome: Outcome) -> None:
        seen, now = self._shards[shard], _print(shard)
        # A refused push can be what the joint step of the others was waiting for.
        joint = shard.assignment.sync.mode == "bsp" and now[0] != seen.print[0]
        may_change = outcome.status is Status.APPLIED or (
            joint and outcome.status is not Status.DUPLICATE
        )
        if now != seen.print and not may_change:
            self.violated(
                host,
                f"push {push.sequence} of worker {push.worker} changed {_name(shard)}, though its "
                f"outcome is {outcome.status.name}",
            )
        seen.print = now

    def shard_raised(self, host: str, shard: Shard, push: ServerPush, error: Exception) -> None:
        seen, now = self._shards[shard], _print(shard)
        if now != seen.print:
            self.violated(
                host,
                f"push {push.sequence} of worker {push.worker} changed {_name(shard)}, though it "
                f"was turned away: {error}",
            )
            seen.print = now

    def gate_passed(self, host: str, shard: Shard, worker: int, incarnation: int) -> None:
        service = self._services.get(host)
        hosted = None if service is None else service.hosted.get(shard.assignment.shard)
        if hosted is None:
            return
        held = len(hosted.receive_buffers) + len(hosted.lent_buffers)
        if held > KEPT_BUFFERS + KEPT_PAYLOADS:
            self.violated(host, f"{_name(shard)} holds {held} receive buffers")
        members = len(hosted.shard.members)
        if len(hosted.waiting) > members + 1:
            self.violated(host, f"{len(hosted.waiting)} requests wait at {_name(shard)}")
        if len(hosted.unacknowledged) > 2 * members + UNACKNOWLEDGED_LIMIT:
            self.violated(
                host, f"{len(hosted.unacknowledged)} wait for acknowledgements of {_name(shard)}"
            )

    def worker_encoded(
        self, host: str, session: Session, push: Push, gradient: Float32Array
    ) -> None:
        for piece in push.pieces:
            if piece.payload_bytes > piece.coder.payload_limit:
                self.violated(
                    host,
                    f"a payload of {piece.payload_bytes} bytes for shard {piece.link.shard.shard}, "
                    f"the limit of {piece.coder.codec.name} is {piece.coder.payload_limit}",
                )

    def host_gone(self, host: str) -> None:
        self._services.pop(host, None)
        for shard in [shard for shard, seen in self._shards.items() if seen.host == host]:
            del self._shards[shard]


def _print(shard: Shard) -> _Print:
    """Version first; equal fingerprints mean equal arrays."""
    arrays = shard.arrays()
    crcs = [zlib.crc32(arrays[name].data) for name in sorted(arrays)]
    return shard.version, shard.buffers_version, *crcs


def _name(shard: Shard) -> str:
    return f"shard {shard.assignment.shard}"
