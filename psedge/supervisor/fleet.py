"""The parameter servers of a run, as the supervisor reaches them: who is there, what they hold.

A thin shell: it sends shards out, tells their primaries who the workers are, and brings shard
states back. Which server gets which shard is `placement.py`'s decision; `guardian.py` watches over
what becomes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec

from psedge.config import ClusterConfig
from psedge.protocol.address import Address
from psedge.protocol.bundle import pack
from psedge.protocol.calls import ask_bytes
from psedge.protocol.errors import RefusedError, UnreachableError
from psedge.protocol.messages import SHARD_ASSIGN, Register, ShardAddress
from psedge.protocol.ports import Transport
from psedge.protocol.replicas import Peer, Position, Reign, ReplicaState
from psedge.protocol.shards import Assignment, ServerReport, ShardOrder, ShardReport, ShardState
from psedge.server.config import ReplicationConfig
from psedge.supervisor.decrees import Decrees
from psedge.supervisor.member_rounds import CONTROL_TIMEOUT_SECONDS, MemberRounds, Table
from psedge.supervisor.placement import place
from psedge.supervisor.progress_table import ProgressTable
from psedge.supervisor.server_list import ServerEntry, ServerList, lossless_of_all
from psedge.supervisor.shard_states import BULK_TIMEOUT_SECONDS, Arrays, gather_states
from psedge.supervisor.shard_table import Decision, ServerRecord, ShardTable

_NO_REPLICAS = ReplicationConfig(replicas=1)


class Fleet:
    """All servers of a run, in the order in which they registered, and what they hold.

    moved: set when workers have to look for a primary elsewhere, then replaced.
    replaced: whether the first shard has had another primary than it began with.
    beside: incarnation of the server in the supervisor's own process, None if there is none.
    """

    def __init__(
        self,
        transport: Transport,
        token: str,
        notify: Callable[[str], None],
        cluster: ClusterConfig | None = None,
        replication: ReplicationConfig = _NO_REPLICAS,
    ) -> None:
        cluster = ClusterConfig() if cluster is None else cluster
        self.list = ServerList(cluster.heartbeat_seconds, cluster.lease_seconds)
        self.decrees = Decrees(self.list)
        self.replication = replication
        self.beside: int | None = None
        self.moved = asyncio.Event()
        self.replaced = False
        self.map_revision = 0
        self._transport = transport
        self._token = token
        self._assignments: dict[int, Assignment] = {}
        #: The reigns as workers are told.
        self._published: dict[int, Reign] = {}
        self._progress = ProgressTable()
        self._reports: dict[int, ShardReport] = {}
        self._lossless: tuple[str, ...] = ()
        self._rounds = MemberRounds(transport, token, notify, self._take)

    @property
    def servers(self) -> list[ServerEntry]:
        return self.list.entries

    @property
    def table(self) -> ShardTable:
        return self.decrees.table

    @property
    def assigned(self) -> bool:
        return bool(self._assignments)

    def register(self, message: Register, peer: str, now: float) -> ServerEntry:
        """Take in a server, or recognise it by its incarnation; see `ServerList.register`."""
        entry = self.list.register(message, peer, now)
        self._hear_of(message.replicas)
        return entry

    def _hear_of(self, replicas: Sequence[ReplicaState]) -> None:
        """Copies of a supervisor that this one knows nothing of may have seen higher terms."""
        for replica in replicas:
            shard, term = replica.shard, replica.term
            if self.table.reign(shard) is None or term >= self.table.next_term(shard):
                self.table.heard_of(shard, term, replica.revision)

    def attach(
        self,
        table: ShardTable,
        records: Sequence[ServerRecord],
        assignments: Sequence[Assignment],
        now: float,
    ) -> None:
        """Take over the servers of an earlier supervisor, with what they hold."""
        self.decrees.table = table
        self.list.restore(records, now)
        self._assignments = {assignment.shard: assignment for assignment in assignments}
        parts = [entry for entry in self.servers if table.held_by(entry.server)]
        self._lossless = lossless_of_all(parts)
        self.replaced = True
        self.follow()

    def forget(self) -> None:
        """Give up what the servers hold; it is to be handed out again, in higher terms."""
        self._assignments, self._reports, self._progress = {}, {}, ProgressTable()
        self.table.forget()
        self.follow()

    def check_invariants(self) -> None:
        """Raise AssertionError if servers or shards are in two places."""
        self.list.check_invariants()
        self.table.check_invariants()
        if self._assignments:
            placed = sorted(shard for entry in self.servers for shard in entry.shards)
            assert placed == sorted(self._assignments), f"shards are placed {placed}"

    def take_report(self, report: ServerReport, now: float) -> bool:
        """A server's heartbeat. False: it is not known here, or only to an earlier supervisor.

        One that was taken for dead is there again.
        """
        entry = self.list.find(report.server, report.incarnation)
        if entry is None or not entry.attached:
            return False
        self._take(entry, report, now)
        return True

    def others_told(self) -> bool:
        """Whether every live server but the supervisor's own has heard that the run has ended."""
        return all(
            entry.told or entry.dead or entry.incarnation == self.beside for entry in self.servers
        )

    def primary(self, shard: int) -> ServerEntry | None:
        """Who reigns over a shard, as workers are told."""
        reign = self._published.get(shard)
        return None if reign is None else self.servers[reign.primary.server]

    def shards(self) -> list[int]:
        return sorted(self._assignments)

    def has(self, shard: int) -> bool:
        """Whether it is a shard of this run."""
        return shard in self._assignments

    def peer(self, entry: ServerEntry) -> Peer:
        """A server as others reach it; the supervisor's own one at the supervisor's address, since
        a loopback address means nothing on another machine."""
        return Peer(entry.server, "" if entry.incarnation == self.beside else entry.url)

    def follow(self) -> None:
        """Let workers know the primaries as the table has them by now."""
        before = {shard: reign.primary for shard, reign in self._published.items()}
        reigns = [reign for reign in self.table.reigns() if self.has(reign.shard)]
        self._published = {reign.shard: reign for reign in reigns}
        for entry in self.servers:
            entry.shards.clear()
        for reign in reigns:
            entry = self.servers[reign.primary.server]
            entry.shards.append(reign.shard)
            if before.get(reign.shard) != reign.primary:
                # It may never have heard who the workers are.
                entry.revision = -1
                self.replaced = self.replaced or (reign.shard == 0 and bool(before))
        if self.map_revision != self.table.map_revision:
            self.map_revision = self.table.map_revision
            self.moved.set()
            self.moved = asyncio.Event()

    async def assign(
        self, assignments: list[Assignment], slices: Sequence[tuple[ShardState | None, Arrays]]
    ) -> None:
        """Hand each shard to live servers, in the order of registration.

        slices: state (None for a fresh start) and arrays of each shard, in the same order. Called
        again after it failed, it begins anew, in terms higher than any before.
        """
        live = self.list.live() or self.servers
        self._assignments, self._published = {}, {}
        self._progress = ProgressTable()
        self._reports = {}
        self.replaced = False
        for entry in self.servers:
            entry.revision = -1
        await self.decrees.open(lambda: self._opening(len(assignments), live))
        pairs = zip(assignments, slices, strict=True)
        bodies = [
            (assignment.shard, pack(self._order(assignment, state), arrays))
            for assignment, (state, arrays) in pairs
        ]
        await _all(self._hand_out(shard, body) for shard, body in bodies)
        self._lossless = lossless_of_all(live)
        self._assignments = {assignment.shard: assignment for assignment in assignments}
        self.follow()

    def _opening(self, shards: int, live: Sequence[ServerEntry]) -> list[Decision]:
        table, acks = self.table, self.replication.acks
        places = place(shards, [entry.server for entry in live], self.replication.replicas)
        peers = {entry.server: self.peer(entry) for entry in live}
        return [
            table.opened(
                each.shard,
                table.next_term(each.shard),
                peers[each.primary],
                [peers[server] for server in each.backups],
                acks,
                each.reason,
            )
            for each in places
        ]

    def _order(self, assignment: Assignment, state: ShardState | None) -> ShardOrder:
        return ShardOrder(assignment, state, reign=self.table.reign(assignment.shard))

    async def _hand_out(self, shard: int, body: bytes) -> None:
        """To the primary and to its backups: each begins with the same arrays."""
        reign = self.table.reign(shard)
        assert reign is not None
        holders = (reign.primary, *reign.backups)
        await _all(self._assign_to(self.servers[peer.server], body) for peer in holders)

    async def _assign_to(self, entry: ServerEntry, body: bytes) -> None:
        """Raises RefusedError `not-ready` if the server is not there: it may be again soon, and
        others may take its place."""
        try:
            await ask_bytes(
                self._transport,
                Address(entry.url, self._token),
                SHARD_ASSIGN,
                [body],
                limit_bytes=2**16,
                timeout_seconds=BULK_TIMEOUT_SECONDS,
            )
        except UnreachableError as error:
            raise RefusedError(
                "not-ready", f"server {entry.server}, which does not take its shards: {error}"
            ) from error

    def behind(self, revision: int) -> list[ServerEntry]:
        """Live primaries that do not know the members of this revision."""
        return [entry for entry in self._owners() if entry.revision < revision]

    def confirmed(self, revision: int) -> bool:
        """Whether the primary of shard 0 has shown that it knows the members of this revision, and
        with that how far each worker came."""
        entry = self.primary(0)
        return entry is not None and entry.revision >= revision

    async def broadcast(
        self,
        table: Table,
        now: Callable[[], float],
        only: Sequence[ServerEntry] | None = None,
    ) -> None:
        """Tell every primary who the live workers are; takes their reports.

        only: no other servers than these. Where primaries are replaced meanwhile, the new ones are
        told. Who does not answer is told again; see `behind`.
        """
        left = CONTROL_TIMEOUT_SECONDS
        began = now()
        while True:
            moved = self.moved
            owners = self._owners() if only is None else only
            if await self._rounds.tell(owners, table, now, left, moved):
                return
            only, left = None, began + CONTROL_TIMEOUT_SECONDS - now()
            if left <= 0:
                return

    def _take(self, entry: ServerEntry, report: ServerReport, now: float) -> None:
        if report.incarnation != entry.incarnation:
            # Another process answers at the address of a dead one.
            return
        entry.heard(now)
        entry.take_replicas(report.replicas)
        self._hear_of(report.replicas)
        for each in report.shards:
            if not self._reigns(entry, each.shard):
                # It was primary once.
                continue
            if each.shard == 0:
                self._progress.take(each.workers)
            self._reports[each.shard] = msgspec.structs.replace(each, workers=())
        for replica in report.replicas:
            reign = self.table.reign(replica.shard)
            if reign is not None and replica.role == "primary" and replica.term == reign.term:
                told = Position(replica.term, replica.acknowledged)
                self.table.note_position(replica.shard, told)
        bare = tuple(msgspec.structs.replace(each, workers=()) for each in report.shards)
        entry.report = msgspec.structs.replace(report, shards=bare)

    def _reigns(self, entry: ServerEntry, shard: int) -> bool:
        """Whether it is the primary, also where workers have yet to be told so: it takes the answer
        to its heartbeat for the word that all in it counts, and tells that only once."""
        reign = self.table.reign(shard)
        return self.has(shard) and reign is not None and reign.primary.server == entry.server

    def _owners(self) -> list[ServerEntry]:
        """Live primaries. What one says before it has registered here is only what has changed
        since it told an earlier supervisor the rest."""
        return [
            entry for entry in self.servers if entry.shards and entry.attached and not entry.dead
        ]

    async def states(self) -> list[tuple[ShardOrder, Arrays]]:
        """State and arrays of every shard, by shard number.

        Raises TrainingError when a shard cannot be had.
        """
        return await gather_states(self, self._transport, self._token)

    def addresses(self) -> tuple[ShardAddress, ...]:
        """Where workers find each shard, by shard number."""
        found = []
        for shard, reign in sorted(self._published.items()):
            placed, entry = self._assignments[shard], self.servers[reign.primary.server]
            found.append(
                ShardAddress(
                    shard=shard,
                    url=self.peer(entry).url,
                    start=placed.start,
                    stop=placed.stop,
                    buffers_start=placed.buffers_start,
                    buffers_stop=placed.buffers_stop,
                    tensors=placed.tensors,
                    term=reign.term,
                )
            )
        return tuple(found)

    def lossless(self) -> tuple[str, ...]:
        """Lossless stages that every server of the start can undo, and everyone who may follow."""
        return self._lossless

    def shard_reports(self) -> list[ShardReport]:
        """The latest report of each shard's primary, by shard number, without the progress of
        workers."""
        return [self._reports[shard] for shard in sorted(self._reports)]

    @property
    def progress(self) -> ProgressTable:
        """What shard 0 has seen of each worker; the measure of which samples are visited."""
        return self._progress

    def bytes_moved(self) -> tuple[int, int]:
        """Bytes of exchanges that servers received and sent so far."""
        reports = [entry.report for entry in self.servers if entry.report is not None]
        received = sum(report.bytes_received for report in reports)
        return received, sum(report.bytes_sent for report in reports)


async def _all(calls: Iterable[Awaitable[None]]) -> None:
    """Wait for all, whatever they come to: a late one must not meet the next try. Raises what the
    first of those raised that failed."""
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
