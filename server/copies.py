"""The copies of shards on one server: how they come, take their roles, and go.

The supervisor hands shards out, a primary sends images of them, a log on disk brings them back. Who
reigns is the supervisor's word, wherever it comes from: with an order, in answer to a heartbeat, to
a request of this server, or by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from numpy.typing import NDArray

from psedge.protocol.address import Address
from psedge.protocol.errors import DamagedError, FrameError, RefusedError
from psedge.protocol.log_entry import Entry
from psedge.protocol.ports import Clock, Transport
from psedge.protocol.replicas import Append, Appended, Reign, ReplicaState
from psedge.protocol.shards import Assignment, ShardOrder
from psedge.server.hosted_shard import HostedShard
from psedge.server.line import Line
from psedge.server.replica import Replica, replica_of, shard_of
from psedge.server.replication import Replication
from psedge.server.shard import Shard
from psedge.server.shard_log import ShardLog
from psedge.server.store import Recovered, ServerStore

Arrays = Mapping[str, NDArray[Any]]

#: `server` of a process that has not registered.
NO_NUMBER = -1
#: How long an order waits for the supervisor's answer that tells this server its number.
REGISTRATION_SECONDS = 10.0


class Copies:
    """What a server holds, by the number of the shard.

    incarnation: as the supervisor knows this server. supervisor: where it is; None until this
    server takes part in a run.
    """

    def __init__(
        self,
        clock: Clock,
        shard_type: type[Shard] = Shard,
        *,
        transport: Transport | None = None,
        store: ServerStore | None = None,
        notify: Callable[[str], None] = lambda text: None,
    ) -> None:
        """shard_type: what shards are made of. transport: None cannot have backups.

        store: None keeps nothing on disk, whatever the assignments say.
        """
        self.incarnation = 0
        self.supervisor: Address | None = None
        self.store = store
        self._clock = clock
        self._shard_type = shard_type
        self._transport = transport
        self._notify = notify
        self._hosted: dict[int, HostedShard] = {}
        self._lease_until = float("-inf")
        self._bytes_received = 0
        self._bytes_sent = 0
        self._server = NO_NUMBER
        self._numbered = asyncio.Event()
        #: Removals from the disk that are under way.
        self._removals: dict[int, asyncio.Task[None]] = {}

    @property
    def hosted(self) -> Mapping[int, HostedShard]:
        """The copies on this server, by the number of the shard."""
        return self._hosted

    def reigning(self) -> list[HostedShard]:
        """Those that this server is the primary of."""
        return [each for each in self._hosted.values() if each.replica.role == "primary"]

    def replica_changed(self, replica: Replica, what: str) -> None:
        """Called after a copy was "assigned", "installed", "recovered", "promoted", "sealed" or
        "dropped", or has heard of another "reign"."""

    def entries_appended(self, replica: Replica, entries: Sequence[Entry]) -> None:
        """Called after a backup has applied what its primary sent."""

    @property
    def server(self) -> int:
        """The number that the supervisor has given to this server; reigns speak of it."""
        return self._server

    @server.setter
    def server(self, number: int) -> None:
        self._server = number
        for hosted in self._hosted.values():
            hosted.replica.server = number
        self._numbered.set()

    def entering(self) -> None:
        """The supervisor is asked for this server's number; an order may overtake the answer."""
        self._numbered.clear()

    def not_entered(self) -> None:
        """It did not answer: an earlier number goes on to count."""
        if self._server != NO_NUMBER:
            self._numbered.set()

    def renew(self, lease_until: float) -> None:
        """The supervisor lets this server act for its shards until then."""
        self._lease_until = max(lease_until, self._lease_until)
        for hosted in self._hosted.values():
            hosted.replica.lease_until = self._lease_until
            hosted.release()

    async def take(self, order: ShardOrder, arrays: Arrays) -> None:
        """The supervisor hands a shard out; without a reign this server alone holds it.

        Raises RefusedError stale-term or conflict, FrameError if the arrays do not fit.
        """
        number, reign = order.assignment.shard, order.reign
        if reign is not None:
            await self._registered()
        await self._removed(number)
        if reign is not None:
            self._require_part(reign)
            known = self._reign_of(number)
            if known is not None and known.term == reign.term:
                # The answer to the same order was lost. What has happened since is not undone.
                self.heard(reign)
                return
        # The supervisor adds what earlier runs of the same shards have moved.
        self._bytes_received = self._bytes_sent = 0
        hosted = self._place(order, arrays, alone=reign is None)
        if reign is not None:
            self._follow(hosted, reign)
        self.replica_changed(hosted.replica, "assigned")

    async def install(self, order: ShardOrder, arrays: Arrays) -> HostedShard:
        """The primary sends an image; the copy that is here afterwards.

        An image that is late, and older than what is here, is passed over. Raises RefusedError
        stale-term or conflict, FrameError if the arrays do not fit.
        """
        number, reign = order.assignment.shard, order.reign
        assert reign is not None
        await self._registered()
        await self._removed(number)
        self._require_part(reign)
        here = self._hosted.get(number)
        if here is not None:
            if here.replica.role == "primary" and here.replica.term == reign.term:
                raise RefusedError("conflict", f"this server itself holds shard {number}")
            known = self._reign_of(number)
            same_reign = known is not None and known.term == reign.term
            if same_reign and order.at <= here.replica.at and not here.wants_image:
                return here
        hosted = self._place(order, arrays, alone=False)
        self._follow(hosted, reign)
        self.replica_changed(hosted.replica, "installed")
        return hosted

    def recover(self, found: Iterable[Recovered]) -> None:
        """What the store has brought back waits until the supervisor says who reigns."""
        for each in found:
            number = each.order.assignment.shard
            try:
                replica = replica_of(
                    each.order, each.arrays, each.entries, self.server, self._shard_type
                )
            except (DamagedError, FrameError) as error:
                self._notify(f"the copy of shard {number} on disk is not used: {error}")
                continue
            replica.lease_until = self._lease_until
            log = self._log_of(each.order.assignment)
            hosted = self._hosted[number] = HostedShard(replica, self._clock, log)
            hosted.damage = each.damage
            self.replica_changed(replica, "recovered")

    def append(self, hosted: HostedShard, message: Append, entries: Iterable[Entry]) -> Appended:
        """As `Replica.append`; what was applied goes to this server's log, too."""
        replica = hosted.replica
        reigned = replica.role == "primary"
        appended, new = replica.append(message, entries)
        hosted.wants_image = appended.outcome != "appended"
        if reigned and replica.role != "primary":
            hosted.depose()
            self.replica_changed(replica, "sealed")
        if new:
            hosted.keep(new)
            self.entries_appended(replica, new)
        return appended

    def seal(self, hosted: HostedShard, term: int) -> ReplicaState:
        """As `Replica.seal`; whoever waits for this copy is told that it reigns no more."""
        replica = hosted.replica
        before = replica.term
        replica.seal(term)
        if replica.term != before:
            hosted.depose()
            self.replica_changed(replica, "sealed")
        return replica.state(self._clock.now())

    def follow(self, reign: Reign) -> ReplicaState:
        """Take the role that a reign gives.

        Raises RefusedError: `stale-term`, `not-ready` if there is no copy of that shard.
        """
        hosted = self.copy_of(reign.shard)
        before, role = hosted.replica.reign, hosted.replica.role
        promoted = self._follow(hosted, reign)
        if hosted.replica.reign is not before:
            what = "promoted" if promoted else "reign"
            if hosted.replica.role == "sealed" != role:
                what = "sealed"
            self.replica_changed(hosted.replica, what)
        return hosted.replica.state(self._clock.now())

    def heard(self, reign: Reign) -> None:
        """Of a reign that may be over, or of a shard that is not here any more."""
        with contextlib.suppress(RefusedError):
            self.follow(reign)

    def copy_of(self, shard: int) -> HostedShard:
        """Raises RefusedError `not-ready` if there is none."""
        hosted = self._hosted.get(shard)
        if hosted is None:
            raise RefusedError("not-ready", f"this server has no copy of shard {shard}")
        return hosted

    def drop(self, shard: int) -> None:
        """Hold this copy no longer, in memory or on disk."""
        hosted = self._hosted.pop(shard, None)
        if hosted is None:
            return
        hosted.retire()
        self.replica_changed(hosted.replica, "dropped")
        if self.store is not None:
            removal = asyncio.ensure_future(self.store.drop(shard))
            self._removals[shard] = removal
            removal.add_done_callback(lambda _: self._removals.pop(shard))

    async def close(self) -> None:
        """Serve nothing any more; what was written is on disk afterwards."""
        for hosted in self._hosted.values():
            hosted.retire()
        await asyncio.gather(*self._removals.values(), return_exceptions=True)
        if self.store is not None:
            await self.store.close()

    async def _removed(self, shard: int) -> None:
        """Nothing of the shard is still being removed from the disk."""
        while (removal := self._removals.get(shard)) is not None:
            await asyncio.wait({removal})

    async def _registered(self) -> None:
        """This server knows its number. Raises RefusedError not-ready when that does not come."""
        try:
            await asyncio.wait_for(self._numbered.wait(), REGISTRATION_SECONDS)
        except asyncio.TimeoutError:
            raise RefusedError("not-ready", "this server is not registered yet") from None

    def _require_part(self, reign: Reign) -> None:
        """Raise RefusedError if the reign is over, or none of this server's business."""
        hosted = self._hosted.get(reign.shard)
        if hosted is not None and hosted.replica.term > reign.term:
            raise RefusedError(
                "stale-term",
                f"term {reign.term} of shard {reign.shard} is over: this server has seen term "
                f"{hosted.replica.term}",
            )
        if reign.role_of(self.server) is None:
            raise RefusedError(
                "conflict", f"server {self.server} has no part in shard {reign.shard}"
            )

    def _reign_of(self, shard: int) -> Reign | None:
        hosted = self._hosted.get(shard)
        return hosted.replica.reign if hosted is not None else None

    def _place(self, order: ShardOrder, arrays: Arrays, *, alone: bool) -> HostedShard:
        """A new copy, in the place of what was here."""
        assignment = order.assignment
        shard = shard_of(order, arrays, self._shard_type)
        old = self._hosted.get(assignment.shard)
        if old is not None:
            old.retire()
        log = self._log_of(assignment)
        replica = Replica(
            shard,
            self.server,
            at=order.at,
            terms=order.terms,
            role="primary" if alone else "learner",
            keeps=log is not None,
        )
        replica.lease_until = self._lease_until
        if log is not None:
            log.begin(msgspec.structs.replace(order, reign=None), arrays)
        hosted = HostedShard(replica, self._clock, log)
        self._hosted[assignment.shard] = hosted
        return hosted

    def _log_of(self, assignment: Assignment) -> ShardLog | None:
        if self.store is None or assignment.log.sync == "off":
            return None
        return self.store.log(assignment.shard, assignment.log)

    def _follow(self, hosted: HostedShard, reign: Reign) -> bool:
        """Whether the copy has become primary, for the first time in this term."""
        replica = hosted.replica
        before = (replica.role, replica.term)
        entries = replica.follow(reign)
        if replica.role != "primary":
            if before[0] == "primary":
                hosted.depose()
            return False
        began = before != ("primary", replica.term)
        if began:
            hosted.begin_reign()
        self._reach_peers(hosted)
        hosted.keep(entries)
        hosted.release()
        return began

    def _reach_peers(self, hosted: HostedShard) -> None:
        if hosted.replication is None and hosted.replica.peers():
            if self._transport is None or self.supervisor is None:
                raise RefusedError("not-ready", "this server takes part in no run yet")
            line = Line(self._transport, self._clock, self.supervisor, self.heard, self.incarnation)
            superseded = functools.partial(self._superseded, hosted)
            hosted.replication = Replication(hosted.replica, line, hosted.release, superseded)
        if hosted.replication is not None:
            hosted.replication.follow_peers()

    def _superseded(self, hosted: HostedShard) -> None:
        """Somebody has seen a higher term than that of this copy's reign."""
        self.seal(hosted, hosted.replica.term + 1)
