"""A copy of a shard with what serving it needs: records of what was sent, memory, waiters, log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec

from psedge.compression.coder import Coders
from psedge.protocol.errors import RefusedError
from psedge.protocol.log_entry import Entry
from psedge.protocol.ports import Clock
from psedge.protocol.replicas import ReplicaState
from psedge.server.aggregation import KEPT_PAYLOADS
from psedge.server.background import begin
from psedge.server.published import Published, chain_begin
from psedge.server.replica import Replica
from psedge.server.replication import Replication
from psedge.server.shard import Shard
from psedge.server.shard_log import ShardLog
from psedge.server.waiters import Waiters, within

#: How long pushes wait for a disk where that is no promise: a log with `group`.
DISK_SECONDS = 1.0
#: Receive buffers kept per shard; more are made under load and dropped after it.
KEPT_BUFFERS = 16


class HostedShard:
    """Everything that a server keeps beside a replica of a shard.

    log: None keeps nothing on disk. replication: None while there are no other copies.
    """

    def __init__(self, replica: Replica, clock: Clock, log: ShardLog | None = None) -> None:
        self.replica = replica
        self._clock = clock
        self.published = _published(replica)
        self.coders = Coders(replica.shard.piece)
        self.log = log
        if log is not None:
            log.image = replica.order
        self.replication: Replication | None = None
        #: Used last in, first out, so that what is taken is still in the cache.
        self.receive_buffers: list[bytearray] = []
        #: Buffers with the payloads that a round of `bsp` keeps, the oldest first.
        self.lent_buffers: list[bytearray] = []
        #: The latest change of a worker's progress that the supervisor has heard of.
        self.told = 0
        #: Workers at the gate, each with the future that lets it through, or sends it away with
        #: False.
        self.waiting: dict[int, asyncio.Future[bool]] = {}
        #: Those whose answer depends on entries that are not acknowledged yet.
        self.unacknowledged = Waiters()
        #: Its log or its digest is not the primary's, or it lacks entries: an image is welcome.
        self.wants_image = False
        #: As in `ReplicaState`.
        self.damage = ""
        #: Another copy has taken its place, or it has none any more.
        self.retired = False
        #: Entry that a log with `group` did not take in time; -1: none.
        self._disk_failed_at = -1
        self._written = asyncio.Event()
        self._following_log: asyncio.Task[None] | None = None

    @property
    def shard(self) -> Shard:
        return self.replica.shard

    def state(self, now: float) -> ReplicaState:
        """As the supervisor is told."""
        return msgspec.structs.replace(self.replica.state(now), damage=self.damage)

    @property
    def latest(self) -> int:
        """Index of the latest entry; 0 while nobody but this copy could have it."""
        return self.replica.at.index if self.replica.keeps_entries else 0

    def require_primary(self, term: int) -> None:
        """Raise RefusedError `not-primary` unless workers of this term are right here."""
        if self.retired:
            raise not_primary(self.shard.assignment.shard)
        self.replica.require_primary(term)

    def begin_reign(self) -> None:
        """It has just become primary: nothing that an earlier one sent is on record here."""
        self.published = _published(self.replica)
        self.published.set_members(self.shard.members)
        self.told = 0

    def depose(self) -> None:
        """It is not primary any more: whoever waits is to look for the one that is."""
        error = not_primary(self.shard.assignment.shard)
        if self.replication is not None:
            self.replication.stop()
            self.replication = None
        self.unacknowledged.fail(error)
        for passage in self.waiting.values():
            if not passage.done():
                _turn_away(passage, error)

    def retire(self) -> None:
        """It is served no more; its log is somebody else's business."""
        self.retired = True
        self.depose()
        if self._following_log is not None:
            self._following_log.cancel()

    def keep(self, entries: Sequence[Entry]) -> None:
        """Write new entries to the log and send them to the peers."""
        if not entries:
            return
        if self.log is not None:
            self._write(self.log, entries)
        if self.replication is not None:
            self.replication.wake()

    def release(self) -> None:
        """Answer whom the progress of a log or of a peer, or a longer lease, sets free."""
        if self.unacknowledged:
            self.unacknowledged.release(self.replica.acknowledged(self._clock.now()))

    async def logged(self) -> None:
        """Return once the own log has the latest entry, as the setting means it."""
        if self.log is None:
            return
        index = self.replica.at.index
        if self.shard.assignment.log.sync == "always":
            await self.log.holds(index)
        else:
            await self._appended(self.log, index)
        self.replica.own_log = index
        self.release()

    async def _appended(self, log: ShardLog, index: int) -> None:
        """With `group` a disk that takes nothing more is no reason to stop training."""
        if log.index >= index or log.index < self._disk_failed_at:
            return
        try:
            await within(log.holds(index), DISK_SECONDS)
        except asyncio.TimeoutError:
            self._disk_failed_at = index

    def receive_buffer(self, size: int) -> bytearray:
        """Memory of at least `size` bytes."""
        buffer = self.receive_buffers.pop() if self.receive_buffers else bytearray()
        return buffer if len(buffer) >= size else bytearray(size)

    def lend(self, buffer: bytearray) -> None:
        """A buffer whose payload the shard has applied, or keeps for its round."""
        self.lent_buffers.append(buffer)
        self.reclaim()

    def reclaim(self) -> None:
        """Take back what the shard no longer needs."""
        while len(self.lent_buffers) > self.shard.kept_payloads:
            self.take_back(self.lent_buffers.pop(0))

    def take_back(self, buffer: bytearray) -> None:
        if len(self.receive_buffers) < KEPT_BUFFERS:
            self.receive_buffers.append(buffer)

    def _write(self, log: ShardLog, entries: Sequence[Entry]) -> None:
        log.write(entries)
        if log.wants_snapshot:
            order, arrays = self.replica.order()
            log.snapshot(msgspec.structs.replace(order, reign=None), arrays)
        if log.index >= entries[-1].index:
            # It was written at once.
            self.replica.own_log = log.index
            self.release()
            return
        if self._following_log is None:
            self._following_log = begin(self._follow_log())
        self._written.set()

    async def _follow_log(self) -> None:
        """Make known how far the disk has come, until the log ends or another copy takes it."""
        with contextlib.suppress(RefusedError):
            while True:
                await self._written.wait()
                self._written.clear()
                await self.logged()

    def check_invariants(self) -> None:
        """Raise AssertionError if a part contradicts itself or a queue has outgrown its bound."""
        self.replica.check_invariants()
        self.shard.check_invariants()
        self.published.check_invariants()
        members = {member.worker for member in self.shard.members}
        assert len(self.receive_buffers) <= KEPT_BUFFERS, "too many receive buffers are kept"
        assert len(self.lent_buffers) <= KEPT_PAYLOADS, "a round holds too many buffers"
        for worker, passage in self.waiting.items():
            assert passage.done() or worker in members, f"worker {worker} waits and is no member"
            assert passage.done() or not self.shard.may_proceed(worker), (
                f"worker {worker} may go on and is kept waiting"
            )

    def open_gate(self) -> None:
        """Let through every waiting worker that may proceed; turn away who is no member now."""
        for worker, passage in list(self.waiting.items()):
            if passage.done():
                continue
            try:
                if self.shard.may_proceed(worker):
                    passage.set_result(True)
            except RefusedError as error:
                _turn_away(passage, error)


def _turn_away(passage: asyncio.Future[bool], error: RefusedError) -> None:
    passage.set_exception(error)
    # Its handler may be gone in the same moment, because the worker hung up, and never look.
    passage.exception()


def not_primary(shard: int) -> RefusedError:
    """What workers of a copy that does not reign are told."""
    return RefusedError("not-primary", f"this server is not the primary of shard {shard} now")


def _published(replica: Replica) -> Published:
    assignment = replica.shard.assignment
    return Published(
        replica.shard.piece,
        assignment.coding,
        remember=assignment.optimizer.delay_compensation > 0,
        first_position=chain_begin(replica.term),
    )
