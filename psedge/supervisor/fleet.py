"""The parameter servers of a run, as the supervisor reaches them: who is there, what they hold.

A thin shell: it sends shards out, tells all servers who the workers are, and brings shard states
back. Which server gets which shard is `shard_map.py`'s decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
    Progress,
    ServerReport,
    ShardOrder,
    ShardReport,
    ShardState,
)
from psedge.protocol.status import ServerStatus

#: Most bytes all shards of one server may bring back for a checkpoint.
STATE_LIMIT_BYTES = 16 * 2**30
BULK_TIMEOUT_SECONDS = 600.0
CONTROL_TIMEOUT_SECONDS = 10.0

Arrays = Mapping[str, NDArray[Any]]


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
    #: Lossless stages that it can undo.
    lossless: tuple[str, ...] = ()


class Fleet:
    """All servers of a run, in the order in which they registered."""

    def __init__(self, transport: Transport, token: str, notify: Callable[[str], None]) -> None:
        self.servers: list[ServerEntry] = []
        self._transport = transport
        self._token = token
        self._notify = notify
        self._assignments: dict[int, Assignment] = {}

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

    def take_report(self, report: ServerReport, now: float) -> bool:
        """A server's heartbeat. False: it is not known here."""
        if report.server >= len(self.servers):
            return False
        entry = self.servers[report.server]
        if entry.incarnation != report.incarnation:
            return False
        entry.last_seen = now
        entry.report = report
        return True

    def others_told(self) -> bool:
        """Whether every live server but the first has heard that the run has ended."""
        return all(entry.told or entry.dead for entry in self.servers[1:])

    def expire(self, now: float, lease_seconds: float) -> list[ServerEntry]:
        """Servers whose lease has run out since the last call."""
        lost = [
            entry
            for entry in self.servers
            if not entry.dead and now - entry.last_seen > lease_seconds
        ]
        for entry in lost:
            entry.dead = True
        return lost

    async def assign(
        self, assignments: list[Assignment], slices: Sequence[tuple[ShardState | None, Arrays]]
    ) -> None:
        """Hand each shard to a server, in the order of registration.

        slices: state (None for a fresh start) and arrays of each shard, in the same order.
        """
        pairs = zip(assignments, slices, strict=True)
        calls = []
        for index, (assignment, (state, arrays)) in enumerate(pairs):
            entry = self.servers[index % len(self.servers)]
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

    async def broadcast(self, members: Members, now: float) -> None:
        """Tell every server that holds shards who the live workers are; takes their reports.

        A server that does not answer is left to its lease.
        """
        owners = [entry for entry in self.servers if entry.shards and not entry.dead]
        results = await asyncio.gather(
            *(
                ask(
                    self._transport,
                    Address(entry.url, self._token),
                    SHARD_MEMBERS,
                    members,
                    ServerReport,
                    timeout_seconds=CONTROL_TIMEOUT_SECONDS,
                )
                for entry in owners
            ),
            return_exceptions=True,
        )
        for entry, result in zip(owners, results, strict=True):
            if isinstance(result, ServerReport):
                entry.report, entry.last_seen = result, now
            elif isinstance(result, PsedgeError):
                self._notify(f"server {entry.server} at {entry.url}: {result}")
            elif isinstance(result, BaseException):
                raise result

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
            found += _split_bundles(body)
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
        """The latest report of each shard, by shard number."""
        reports = [
            report for entry in self.servers if entry.report for report in entry.report.shards
        ]
        return sorted(reports, key=lambda report: report.shard)

    def progress(self) -> dict[int, Progress]:
        """What shard 0 has seen of each worker; the measure of which samples are visited."""
        for report in self.shard_reports():
            if report.shard == 0:
                return {progress.worker: progress for progress in report.workers}
        return {}

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
