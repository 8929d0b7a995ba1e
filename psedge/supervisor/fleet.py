"""The parameter servers of a run, as the supervisor reaches them: who is there, what they hold.

A thin shell: it sends shards out, tells all servers who the workers are, and brings shard states
back. Which server gets which shard is `shard_map.py`'s decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from numpy.typing import NDArray

from psedge.protocol.address import Address
from psedge.protocol.bundle import pack, unpack
from psedge.protocol.calls import ask, ask_bytes
from psedge.protocol.errors import FrameError, PsedgeError, TrainingError
from psedge.protocol.messages import (
    SHARD_ASSIGN,
    SHARD_MEMBERS,
    SHARD_STATE,
    Register,
    ShardAddress,
)
from psedge.protocol.ports import Transport
from psedge.protocol.shards import (
    Assignment,
    Members,
    ServerReport,
    ShardOrder,
    ShardReport,
    ShardState,
)
from psedge.protocol.status import ServerStatus
from psedge.supervisor.progress_table import ProgressTable

#: Most bytes all shards of one server may bring back for a checkpoint.
STATE_LIMIT_BYTES = 16 * 2**30
BULK_TIMEOUT_SECONDS = 600.0
CONTROL_TIMEOUT_SECONDS = 10.0

Arrays = Mapping[str, NDArray[Any]]
#: The live workers: those that changed after a revision, or all of them for None.
Table = Callable[[int | None], Members]


@dataclass(slots=True)
class ServerEntry:
    """One registered server."""

    server: int
    url: str
    incarnation: int
    last_seen: float
    shards: list[int] = field(default_factory=list)
    report: ServerReport | None = None
    dead: bool = False
    #: It has heard that the run has ended.
    told: bool = False
    #: Of the members that its shards have; -1: of none.
    revision: int = -1
    #: Lossless stages that it can undo.
    lossless: tuple[str, ...] = ()
    #: The latest round of telling it who is live, and whether it has yet to look at the table.
    round: asyncio.Task[None] | None = None
    round_waits: bool = False


class Fleet:
    """All servers of a run, in the order in which they registered."""

    def __init__(self, transport: Transport, token: str, notify: Callable[[str], None]) -> None:
        self.servers: list[ServerEntry] = []
        self._transport = transport
        self._token = token
        self._notify = notify
        self._assignments: dict[int, Assignment] = {}
        self._progress = ProgressTable()
        self._reports: list[ShardReport] | None = None

    @property
    def assigned(self) -> bool:
        return bool(self._assignments)

    def register(self, message: Register, peer: str, now: float) -> ServerEntry:
        """Take in a server, or recognise it by its incarnation.

        peer: the host its request came from, used where it listens on every address.
        """
        for entry in self.servers:
            if entry.incarnation == message.incarnation:
                entry.last_seen = now
                return entry
        host = peer if message.host in ("0.0.0.0", "::", "") else message.host  # noqa: S104
        bracketed = f"[{host}]" if ":" in host else host
        url = f"http://{bracketed}:{message.port}"
        entry = ServerEntry(
            len(self.servers), url, message.incarnation, now, lossless=message.lossless
        )
        self.servers.append(entry)
        return entry

    def check_invariants(self) -> None:
        """Raise AssertionError if servers or shards are in two places."""
        assert [entry.server for entry in self.servers] == list(range(len(self.servers)))
        incarnations = [entry.incarnation for entry in self.servers]
        assert len(set(incarnations)) == len(incarnations), "a server is registered twice"
        if self._assignments:
            placed = sorted(shard for entry in self.servers for shard in entry.shards)
            assert placed == sorted(self._assignments), f"shards are placed {placed}"

    def take_report(self, report: ServerReport, now: float) -> bool:
        """A server's heartbeat. False: it is not known here.

        One that was taken for dead before training began is there again.
        """
        if report.server >= len(self.servers):
            return False
        entry = self.servers[report.server]
        if entry.incarnation != report.incarnation:
            return False
        entry.dead = False
        self._take(entry, report, now)
        return True

    def others_told(self) -> bool:
        """Whether every live server but the first has heard that the run has ended."""
        return all(entry.told or entry.dead for entry in self.servers[1:])

    def expire(self, now: float, lease_seconds: float) -> list[ServerEntry]:
        """Servers whose lease has run out."""
        for entry in self.servers:
            entry.dead = entry.dead or now - entry.last_seen > lease_seconds
        return [entry for entry in self.servers if entry.dead]

    async def assign(
        self, assignments: list[Assignment], slices: Sequence[tuple[ShardState | None, Arrays]]
    ) -> None:
        """Hand each shard to a live server, in the order of registration.

        slices: state (None for a fresh start) and arrays of each shard, in the same order. Called
        again after it failed, it begins anew.
        """
        live = [entry for entry in self.servers if not entry.dead] or self.servers
        for entry in self.servers:
            entry.shards.clear()
            entry.revision = -1
        self._progress = ProgressTable()
        self._reports = None
        pairs = zip(assignments, slices, strict=True)
        calls = []
        for index, (assignment, (state, arrays)) in enumerate(pairs):
            entry = live[index % len(live)]
            entry.shards.append(assignment.shard)
            body = pack(ShardOrder(assignment, state), arrays)
            calls.append(
                ask_bytes(
                    self._transport,
                    Address(entry.url, self._token),
                    SHARD_ASSIGN,
                    [body],
                    limit_bytes=2**16,
                    timeout_seconds=BULK_TIMEOUT_SECONDS,
                )
            )
        await asyncio.gather(*calls)
        self._assignments = {assignment.shard: assignment for assignment in assignments}

    def behind(self, revision: int) -> list[ServerEntry]:
        """Live servers with shards that do not know the members of this revision."""
        return [entry for entry in self._owners() if entry.revision < revision]

    async def broadcast(
        self,
        table: Table,
        now: Callable[[], float],
        only: Sequence[ServerEntry] | None = None,
    ) -> None:
        """Tell every server that holds shards who the live workers are; takes their reports.

        only: no other servers than these.

        Changes that come while a server answers wait and go out together. A server that does not
        answer is told again; see `behind`.
        """
        owners = self._owners() if only is None else only
        rounds = [self._next_round(entry, table, now) for entry in owners]
        if rounds:
            done, _ = await asyncio.wait(rounds, timeout=CONTROL_TIMEOUT_SECONDS)
            for each in done:
                each.result()

    def _next_round(
        self, entry: ServerEntry, table: Table, now: Callable[[], float]
    ) -> asyncio.Task[None]:
        """The one that will tell the server of everything up to this moment."""
        if entry.round is None or not entry.round_waits:
            entry.round_waits = True
            entry.round = asyncio.ensure_future(self._round(entry, entry.round, table, now))
        return entry.round

    async def _round(
        self,
        entry: ServerEntry,
        before: asyncio.Task[None] | None,
        table: Table,
        now: Callable[[], float],
    ) -> None:
        try:
            if before is not None and not before.done():
                await asyncio.wait((before,))
        finally:
            entry.round_waits = False
        try:
            await self._tell(entry, table(entry.revision if entry.revision >= 0 else None), now())
            if entry.revision < 0:
                await self._tell(entry, table(None), now())
        except PsedgeError as error:
            self._notify(f"server {entry.server} at {entry.url}: {error}")

    async def _tell(self, entry: ServerEntry, members: Members, now: float) -> None:
        """Afterwards the entry's revision is -1 if the server lacks what `members` builds on."""
        report = await ask(
            self._transport,
            Address(entry.url, self._token),
            SHARD_MEMBERS,
            members,
            ServerReport,
            timeout_seconds=CONTROL_TIMEOUT_SECONDS,
        )
        self._take(entry, report, now)
        seen = [each.revision for each in report.shards if each.shard in entry.shards]
        told = len(seen) == len(entry.shards) and min(seen) >= members.revision
        if told or members.since is None:
            entry.revision = max(entry.revision, members.revision)
        else:
            entry.revision = -1

    def _take(self, entry: ServerEntry, report: ServerReport, now: float) -> None:
        entry.last_seen = now
        for each in report.shards:
            if each.shard == 0 and 0 in entry.shards:
                self._progress.take(each.workers)
        bare = tuple(msgspec.structs.replace(each, workers=()) for each in report.shards)
        entry.report = msgspec.structs.replace(report, shards=bare)
        self._reports = None

    def _owners(self) -> list[ServerEntry]:
        return [entry for entry in self.servers if entry.shards and not entry.dead]

    async def states(self) -> list[tuple[ShardOrder, Arrays]]:
        """State and arrays of every shard, by shard number.

        Raises TrainingError when a shard cannot be had.
        """
        found: list[tuple[ShardOrder, Arrays]] = []
        for entry in self.servers:
            if not entry.shards:
                continue
            try:
                body = await self._state_of(entry)
            except PsedgeError as error:
                raise TrainingError(
                    f"server {entry.server} at {entry.url} does not hand out its shards: {error}"
                ) from error
            # A server may still hold shards of a supervisor before this one.
            found += [
                (order, arrays)
                for order, arrays in _split_bundles(body)
                if order.assignment.shard in entry.shards
            ]
        found.sort(key=lambda pair: pair[0].assignment.shard)
        if len(found) != len(self._assignments):
            raise TrainingError(f"{len(found)} of {len(self._assignments)} shards came back")
        return found

    async def _state_of(self, entry: ServerEntry) -> memoryview:
        return await ask_bytes(
            self._transport,
            Address(entry.url, self._token),
            SHARD_STATE,
            [b"{}"],
            limit_bytes=STATE_LIMIT_BYTES,
            timeout_seconds=BULK_TIMEOUT_SECONDS,
        )

    def addresses(self) -> tuple[ShardAddress, ...]:
        """Where workers find each shard. A loopback address means nothing on another machine, so
        shards beside the supervisor are given as its own address."""
        found = []
        for entry in self.servers:
            near = entry.server == 0
            for shard in entry.shards:
                placed = self._assignments[shard]
                found.append(
                    ShardAddress(
                        shard=shard,
                        url="" if near else entry.url,
                        start=placed.start,
                        stop=placed.stop,
                        buffers_start=placed.buffers_start,
                        buffers_stop=placed.buffers_stop,
                        tensors=placed.tensors,
                    )
                )
        return tuple(sorted(found, key=lambda address: address.shard))

    def lossless(self) -> tuple[str, ...]:
        """Lossless stages that every server with shards can undo, as the first one names them."""
        owners = [entry for entry in self.servers if entry.shards]
        if not owners:
            return ()
        return tuple(
            name
            for name in owners[0].lossless
            if all(name in entry.lossless for entry in owners[1:])
        )

    def shard_reports(self) -> list[ShardReport]:
        """The latest report of each shard, by shard number, without the progress of workers."""
        if self._reports is None:
            reports = [
                report
                for entry in self.servers
                if entry.report
                for report in entry.report.shards
                if report.shard in entry.shards
            ]
            self._reports = sorted(reports, key=lambda report: report.shard)
        return self._reports

    @property
    def progress(self) -> ProgressTable:
        """What shard 0 has seen of each worker; the measure of which samples are visited."""
        return self._progress

    def bytes_moved(self) -> tuple[int, int]:
        """Bytes of exchanges that servers received and sent so far."""
        reports = [entry.report for entry in self.servers if entry.report is not None]
        received = sum(report.bytes_received for report in reports)
        return received, sum(report.bytes_sent for report in reports)

    def statuses(self) -> tuple[ServerStatus, ...]:
        return tuple(
            ServerStatus(
                server=entry.server,
                url=entry.url,
                state="dead" if entry.dead else "alive" if entry.shards else "spare",
                shards=tuple(entry.shards),
                version=max(
                    (report.version for report in entry.report.shards) if entry.report else (),
                    default=0,
                ),
            )
            for entry in self.servers
        )


def _split_bundles(body: memoryview) -> list[tuple[ShardOrder, Arrays]]:
    found: list[tuple[ShardOrder, Arrays]] = []
    at = 0
    while at < len(body):
        length = int.from_bytes(body[at : at + 8], "little")
        bundle = body[at + 8 : at + 8 + length]
        if len(bundle) != length:
            raise FrameError("a shard's state ends before its length")
        found.append(unpack(bundle, ShardOrder))
        at += 8 + length
    return found
