"""Invariant 6: every sample of an epoch is visited exactly once.

A visit is a push that shard 0 took, applied or refused: its samples are not handed out again. What
a resumed run goes back behind its checkpoint is visited again, and only that. Each copy of shard 0
has visits of its own; what counts in the end are those of the last primary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psedge.protocol.messages import ClaimReply
from psedge.protocol.shards import ShardState
from psedge.protocol.status import Status as RunStatus
from psedge.protocol.wire import Status
from psedge.server.ledger import DEPARTED_LIMIT
from psedge.server.push import Outcome
from psedge.server.push import Push as ServerPush
from psedge.server.replica import Replica
from psedge.server.shard import Shard
from psedge.simulation.checkers.checker import Checker
from psedge.simulation.checkers.lineage import Reigning, Snapshots
from psedge.simulation.checkers.losses import Losses
from psedge.supervisor.journal import KEPT_EVENTS
from psedge.supervisor.service import Supervisor
from psedge.worker.push import Push
from psedge.worker.session import Session

Indices = NDArray[np.int64]
#: A worker under one incarnation.
_Sender = tuple[int, int]
#: Whose data, empty for data that all share, and the epoch.
_Epoch = tuple[str, int]

#: Violations of one kind name so many samples.
_NAMED = 5


@dataclass(slots=True)
class _Reader:
    """What a worker has claimed and not yet put into a push.

    fed: it claims its data, and does not bring its own loop over it.
    claimed: epochs and how many of their samples, in order. gradient: samples of the next push.
    """

    pool: str
    fed: bool = False
    claimed: deque[tuple[int, int]] = field(default_factory=deque)
    gradient: list[tuple[_Epoch, Indices]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Visit:
    """One push: who sent it, and the samples behind it."""

    sender: _Sender
    sequence: int
    parts: tuple[tuple[_Epoch, Indices], ...]


@dataclass(slots=True)
class _Life:
    """A copy of shard 0. visits: all that its parameters stand for, None if unknown."""

    host: str
    visits: list[_Visit] | None
    counts: dict[_Epoch, NDArray[np.int64]] = field(default_factory=dict)
    sequences: dict[_Sender, int] = field(default_factory=dict)

    def count(self, visit: _Visit) -> list[tuple[_Epoch, int]]:
        """Enter a visit; returns samples that had been visited before."""
        again: list[tuple[_Epoch, int]] = []
        for epoch, indices in visit.parts:
            counts = self.counts.get(epoch, np.zeros(0, np.int64))
            if indices.max(initial=-1) >= len(counts):
                counts = np.concatenate([counts, np.zeros(2 * int(indices.max()) + 1, np.int64)])
            again += [(epoch, int(index)) for index in indices[counts[indices] > 0]]
            np.add.at(counts, indices, 1)
            self.counts[epoch] = counts
        return again


class Samples(Checker):
    """Follows samples from the claim through the gradient to shard 0."""

    invariant = 6

    def __init__(self, *further: Any) -> None:
        super().__init__(*further)
        self._readers: dict[str, _Reader] = {}
        self._sent: dict[_Sender, dict[int, _Visit]] = {}
        #: All of these again, once a shard has taken them: entries of a log come back much later.
        self._taken: dict[tuple[_Sender, int], _Visit] = {}
        self._lives: dict[Shard, _Life] = {}
        self._reigning = Reigning()
        #: The life of the latest primary, and samples of visits that its successors lack.
        self._latest: _Life | None = None
        self._lost: set[tuple[_Epoch, int]] = set()
        self._losses = Losses()
        self._snapshots: Snapshots[list[_Visit]] = Snapshots()

    def worker_joined(self, host: str, session: Session) -> None:
        shared = session.identity.local_samples is None
        self._readers[host] = _Reader("" if shared else session.joined.name)

    def range_claimed(self, host: str, session: Session, reply: ClaimReply) -> None:
        reader = self._readers.get(host)
        if reader is not None and reply.state == "range":
            reader.fed = True
            reader.claimed.append((reply.epoch, reply.stop - reply.start))

    def batch_made(self, host: str, indices: Indices) -> None:
        reader = self._readers[host]
        epoch, left = reader.claimed.popleft() if reader.claimed else (-1, 0)
        if len(indices) > left:
            self.violated(host, f"a step takes {len(indices)} samples of {left} that were claimed")
            return
        if len(indices) < left:
            reader.claimed.appendleft((epoch, left - len(indices)))
        reader.gradient.append(((reader.pool, epoch), np.array(indices, np.int64)))

    def worker_encoded(
        self, host: str, session: Session, push: Push, gradient: NDArray[np.float32]
    ) -> None:
        reader, header = self._readers[host], push.pieces[0].header
        assert header is not None
        if not reader.fed:
            return
        sender = (header.worker, header.incarnation)
        parts, reader.gradient = tuple(reader.gradient), []
        behind = sum(len(indices) for _, indices in parts)
        if behind != push.samples:
            self.violated(
                host,
                f"push {header.sequence} of worker {header.worker} says {push.samples} samples, "
                f"its gradient has {behind}",
            )
        # The push before may still be on its way when a worker overlaps.
        latest = self._sent.get(sender, {})
        kept = {old: visit for old, visit in latest.items() if old >= header.sequence - 1}
        self._sent[sender] = {**kept, header.sequence: _Visit(sender, header.sequence, parts)}

    def shard_made(self, host: str, shard: Shard, state: ShardState | None) -> None:
        if shard.assignment.shard != 0:
            return
        known = [] if state is None else self._snapshots.find(shard, state)
        life = _Life(host, known)
        if known is not None:
            life.visits = list(known)
            for visit in known:
                life.count(visit)
                life.sequences[visit.sender] = visit.sequence
        self._lives[shard] = life
        self._reigning.made(shard)

    def run_started(self, host: str, supervisor: Supervisor) -> None:
        self._reigning.run_started(supervisor)

    def noted(self, host: str, text: str) -> None:
        self._losses.noted(text)

    def replica_changed(self, host: str, replica: Replica, what: str) -> None:
        life = self._lives.get(replica.shard)
        if not self._reigning.changed(host, replica) or life is None:
            return
        before, self._latest = self._latest, life
        for visit in (before.visits or ()) if before is not None else ():
            if visit.sequence > life.sequences.get(visit.sender, 0):
                self._lost |= {(epoch, int(i)) for epoch, indices in visit.parts for i in indices}

    def shard_pushed(self, host: str, shard: Shard, push: ServerPush, outcome: Outcome) -> None:
        life = self._lives.get(shard)
        sender = (push.worker, push.incarnation)
        if life is None or outcome.status is Status.DUPLICATE:
            return
        if push.sequence <= life.sequences.get(sender, 0):
            return
        life.sequences[sender] = push.sequence
        key = (sender, push.sequence)
        visit = self._sent.get(sender, {}).get(push.sequence) or self._taken.get(key)
        if visit is None or life.visits is None:
            return
        self._taken[key] = visit
        life.visits.append(visit)
        again = life.count(visit)
        if again:
            self.violated(
                host,
                f"push {push.sequence} of worker {push.worker} visits {len(again)} samples for "
                f"the second time: {_named(again)}",
            )

    def shard_imaged(
        self, host: str, shard: Shard, state: ShardState, arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        self.shard_state(host, shard, state, arrays)

    def shard_state(
        self, host: str, shard: Shard, state: ShardState, arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        life = self._lives.get(shard)
        if life is None or life.visits is None:
            return
        # A round of bsp that is not complete is in no checkpoint, and in no image.
        progress = [account.progress for account in state.accounts or ()] or state.workers
        counted = {(done.worker, done.incarnation): done.sequence for done in progress}
        # Of an image, whoever is not in it came after that round had begun.
        all_known = state.accounts is not None and len(counted) < DEPARTED_LIMIT
        settled = [
            visit
            for visit in life.visits
            if shard.assignment.sync.mode != "bsp"
            or visit.sequence <= counted.get(visit.sender, 0 if all_known else visit.sequence)
        ]
        self._snapshots.take(shard, state, settled)

    def host_gone(self, host: str) -> None:
        self._readers.pop(host, None)
        for shard in [shard for shard, life in self._lives.items() if life.host == host]:
            del self._lives[shard]

    def run_ended(self, host: str, supervisor: Supervisor, status: RunStatus) -> None:
        shard, plan = self._reigning.shard(0), supervisor.state.plan
        life = None if shard is None else self._lives.get(shard)
        if status.phase != "finished" or life is None or life.visits is None or plan is None:
            return
        if plan.placement != "shared" or not life.visits:
            return
        lost = self._lost
        if not self._losses.said(0, supervisor.state.journal.latest(KEPT_EVENTS)):
            lost = set()
        pool = plan.export().pools[0]
        end = pool.end or 0
        for epoch in range(-(-end // pool.samples)):
            planned = min(pool.samples, end - epoch * pool.samples)
            counts = np.zeros(pool.samples, np.int64)
            known = life.counts.get(("", epoch), counts)[: pool.samples]
            counts[: len(known)] = known
            # What is lost for good was visited, and the run has said that it is lost.
            excused = sorted(index for key, index in lost if key == ("", epoch))
            counts[excused] = np.maximum(counts[excused], 1)
            visited = int((counts > 0).sum())
            if visited != planned:
                missed = np.flatnonzero(counts == 0)
                self.violated(
                    host,
                    f"the run finished, and in epoch {epoch} {visited} of {planned} samples were "
                    f"visited; not visited: {_named([(('', epoch), int(i)) for i in missed])}",
                )


def _named(samples: list[tuple[_Epoch, int]]) -> str:
    names = [f"{index} of epoch {epoch}" for (_, epoch), index in samples[:_NAMED]]
    return ", ".join([*names, "..."][: len(samples)])
