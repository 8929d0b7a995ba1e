"""Invariant 3: copies of a shard are the same bits at the same entry of its log.

So are a worker's parameters and what the server has on record, and a shard's arrays and those of
the checkpoint that it was restored from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psedge.compression.codec import Float32Array
from psedge.compression.identity import Identity
from psedge.compression.native import kernels
from psedge.protocol.log_entry import Entry
from psedge.protocol.replicas import Position
from psedge.protocol.shards import Members, ShardState
from psedge.protocol.wire import NO_POSITION, Header
from psedge.server.push import Outcome
from psedge.server.push import Push as ServerPush
from psedge.server.replica import Replica
from psedge.server.service import ShardService
from psedge.server.shard import Shard
from psedge.simulation.checkers.checker import Checker
from psedge.simulation.checkers.lineage import KEPT_SNAPSHOTS, Reigning
from psedge.supervisor.service import Supervisor
from psedge.worker.session import Session
from psedge.worker.shard_link import ShardLink

#: Latest versions of a shard whose bits are remembered; no reply is on its way for longer.
KEPT_VERSIONS = 4096
#: Latest entries of a shard's log at which the digest of a copy is remembered.
KEPT_POSITIONS = 4096

_Place = tuple[int, int, int, int]


@dataclass(slots=True)
class _Versions:
    """What a shard of this number held at its versions, in all its lives.

    known: digests by version. order: the versions, the oldest first.
    """

    known: dict[int, set[int]] = field(default_factory=dict)
    order: deque[int] = field(default_factory=deque)

    def add(self, version: int, digest: int) -> None:
        if version not in self.known:
            self.order.append(version)
        self.known.setdefault(version, set()).add(digest)
        while len(self.order) > KEPT_VERSIONS:
            self.known.pop(self.order.popleft(), None)


@dataclass(slots=True)
class _Copies:
    """Digests of the copies of one shard, by the entry that they had come to."""

    digests: dict[Position, tuple[int, str]] = field(default_factory=dict)

    def differs(self, at: Position, digest: int, host: str) -> str:
        """Enter a digest; returns the host that had another one there, or nothing."""
        known, where = self.digests.setdefault(at, (digest, host))
        if len(self.digests) > KEPT_POSITIONS:
            del self.digests[next(iter(self.digests))]
        return where if known != digest else ""


class BitIdentity(Checker):
    """Compares copies whenever one of them changes, and workers after every reply they take."""

    invariant = 3

    def __init__(self, *further: Any) -> None:
        super().__init__(*further)
        self._services: dict[str, ShardService] = {}
        self._versions: dict[int, _Versions] = {}
        self._latest: dict[Shard, tuple[str, int]] = {}
        self._reigning = Reigning()
        self._copies: dict[int, _Copies] = {}
        #: Digests of the arrays of checkpoints, by shard and version.
        self._saved: dict[_Place, deque[dict[str, int]]] = {}

    def server_opened(self, host: str, service: ShardService) -> None:
        self._services[host] = service

    def shard_made(self, host: str, shard: Shard, state: ShardState | None) -> None:
        self._latest[shard] = host, -1
        self._reigning.made(shard)
        self._note(host, shard)
        if state is None or state.accounts is not None:
            return
        saved = self._saved.get(_place(shard, state.version))
        found = _digests(shard.arrays()) if saved is not None else {}
        if saved is not None and found not in saved:
            wrong = sorted(name for name in found if found[name] != saved[-1].get(name))
            self.violated(
                host,
                f"shard {shard.assignment.shard} was restored at version {state.version} with "
                f"other bits than its checkpoint: {', '.join(wrong)}",
            )

    def run_started(self, host: str, supervisor: Supervisor) -> None:
        if self._reigning.run_started(supervisor):
            self._copies.clear()

    def members_set(self, host: str, shard: Shard, members: Members) -> None:
        self._note(host, shard)

    def shard_pushed(self, host: str, shard: Shard, push: ServerPush, outcome: Outcome) -> None:
        self._note(host, shard)

    def replica_changed(self, host: str, replica: Replica, what: str) -> None:
        self._reigning.changed(host, replica)
        if what != "dropped":
            self._compare_copies(host, replica)

    def entries_applied(self, host: str, replica: Replica, entries: Sequence[Entry]) -> None:
        self._compare_copies(host, replica)

    def push_answered(self, host: str, replica: Replica, header: Header) -> None:
        self._compare_copies(host, replica)

    def shard_state(
        self, host: str, shard: Shard, state: ShardState, arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        saved = self._saved.setdefault(_place(shard, state.version), deque(maxlen=KEPT_SNAPSHOTS))
        saved.append(_digests(arrays))

    def host_gone(self, host: str) -> None:
        self._services.pop(host, None)
        for shard in [shard for shard, (where, _) in self._latest.items() if where == host]:
            del self._latest[shard]

    def worker_joined(self, host: str, session: Session) -> None:
        self.worker_took(host, session)

    def worker_took(self, host: str, session: Session) -> None:
        worker, incarnation = session.joined.worker, session.incarnation
        parameters = session.binding.parameters
        for link in session.client.links:
            mine = parameters[link.parameters]
            if link.position == NO_POSITION:
                self._compare_version(host, session, link, mine)
                continue
            record = self._record(worker, incarnation, link)
            if record is not None and record.tobytes() != mine.tobytes():
                differ = int((record.view(np.uint32) != mine.view(np.uint32)).sum())
                self.violated(
                    host,
                    f"{differ} of {len(mine)} parameters of shard {link.shard.shard} differ from "
                    f"what its server has on record for worker {worker} at position "
                    f"{link.position}",
                )

    def _record(self, worker: int, incarnation: int, link: ShardLink) -> Float32Array | None:
        """What the servers have on record for a worker at the position where it stands."""
        for service in self._services.values():
            hosted = service.hosted.get(link.shard.shard)
            if hosted is None or hosted.shard is not self._reigning.shard(link.shard.shard):
                continue
            here = any(
                (member.worker, member.incarnation) == (worker, incarnation)
                for member in hosted.shard.members
            )
            if here:
                return hosted.published.model_of(worker, incarnation, link.position)
        return None

    def _compare_version(
        self, host: str, session: Session, link: ShardLink, mine: Float32Array
    ) -> None:
        """Whole parameters must be those of the version that came with them, of any life."""
        sync = session.joined.sync
        if (sync.weight_prediction and sync.mode != "bsp") or not _exact(session):
            return
        versions = self._versions.get(link.shard.shard)
        digests = versions.known.get(link.version) if versions is not None else None
        if digests is not None and kernels.digest(mine) not in digests:
            self.violated(
                host,
                f"the parameters of shard {link.shard.shard} on worker {session.joined.worker} are "
                f"not those of version {link.version}",
            )

    def _compare_copies(self, host: str, replica: Replica) -> None:
        number = replica.shard.assignment.shard
        if not replica.at.index or not self._reigning.is_of_this_run(replica.shard):
            return
        copies = self._copies.setdefault(number, _Copies())
        other = copies.differs(replica.at, replica.shard.digest(), host)
        if other:
            self.violated(
                host,
                f"the copy of shard {number} at entry {replica.at.index} of term "
                f"{replica.at.term} differs from that on {other} there",
            )

    def _note(self, host: str, shard: Shard) -> None:
        """Remember the bits of a version that is new."""
        if self._latest.get(shard, (host, -1))[1] == shard.version:
            return
        self._latest[shard] = host, shard.version
        versions = self._versions.setdefault(shard.assignment.shard, _Versions())
        versions.add(shard.version, kernels.digest(shard.parameters))


def _exact(session: Session) -> bool:
    """Whether pulls come as float32."""
    return isinstance(session.client.coding.pull_codec, Identity)


def _place(shard: Shard, version: int) -> _Place:
    assignment = shard.assignment
    return assignment.shard, assignment.start, assignment.stop, version


def _digests(arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    return {
        name: kernels.digest(np.frombuffer(_padded(array.tobytes()), np.float32))
        for name, array in arrays.items()
    }


def _padded(data: bytes) -> bytes:
    """Whole float32 values of any bytes, and of their number."""
    return data + bytes(-len(data) % 4) + len(data).to_bytes(4, "little")
