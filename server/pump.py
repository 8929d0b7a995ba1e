"""What goes from a primary to one other copy of its shard: entries, or an image of the whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random

from psedge.protocol.bundle import pack
from psedge.protocol.calls import ask_bytes, decoded
from psedge.protocol.errors import (
    AddressError,
    FrameError,
    PsedgeError,
    RefusedError,
    UnreachableError,
)
from psedge.protocol.log_entry import Entry
from psedge.protocol.ports import Buffer
from psedge.protocol.replicas import (
    REPLICA_APPEND,
    REPLICA_INSTALL,
    Append,
    Appended,
    Peer,
    Position,
)
from psedge.server.append_message import append_parts
from psedge.server.background import begin
from psedge.server.line import Line
from psedge.server.petition import Petition
from psedge.server.replica import Replica

#: A backup that leaves entries unanswered for so long, and for as long as they take on its link,
#: is to be dropped.
DROP_SECONDS = 2.0
#: Longest wait for an answer, besides what the bytes take on the slowest link.
ANSWER_SECONDS = 10.0
SLOWEST_LINK_BYTES_PER_SECOND = 50_000
#: What a link is taken for until it has carried something of size.
FIRST_RATE_BYTES_PER_SECOND = 1e6
#: Messages shorter than this say nothing about the speed of a link.
MEASURED_BYTES = 2**16
#: Most bytes of entries in one message, a single longer entry aside; and how long they may take,
#: so that an answer is never far away.
MESSAGE_LIMIT_BYTES = 8 * 2**20
MESSAGE_SECONDS = 0.5
#: How long the first entries wait for more of them, where the latest messages held more.
GATHER_SECONDS = 0.002
#: A learner is brought into the set when it lacks no more entries than this, or none but those that
#: were written while its last message was under way, or no more than its link takes in so long:
#: one that lags by a round trip never lacks less while workers push.
ADMIT_LAG = 8
ADMIT_SECONDS = DROP_SECONDS / 4
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0
#: How long a backup may lack a copy that the supervisor is handing out at the same time, and
#: the pause before it is looked for again.
HANDING_OUT_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 0.1
#: A timer that is so late says that this process itself was not running.
ASLEEP_SECONDS = 0.5
REPLY_LIMIT_BYTES = 2**16


class Pump:
    """Brings one peer up to date and keeps it there; runs from when it is made until `stop`.

    rates: bytes a second by server, kept over the life of pumps.
    """

    def __init__(
        self,
        replica: Replica,
        peer: Peer,
        line: Line,
        released: Callable[[], None],
        superseded: Callable[[], None],
        rates: dict[int, float],
    ) -> None:
        self._replica = replica
        self._shard = replica.shard.assignment.shard
        self._peer = peer
        self._line = line
        self._address = line.address(peer)
        self._released = released
        self._superseded = superseded
        self._rates = rates
        # Jitter spreads load and guards nothing, so its source may be predictable.
        self._random = Random(f"{line.seed} {self._shard} {peer.server}")  # noqa: S311
        self._petition = Petition(replica, peer, line, released, superseded, self._random)
        #: Up to where the peer has the primary's log; None: nobody knows.
        self._at: Position | None = None
        self._needs_image = False
        #: The latest of what it has taken from this pump.
        self._taken: Position | None = None
        self._began = line.clock.now()
        self._failures = 0
        self._problem = ""
        self._queued = asyncio.Event()
        #: How many entries the latest message and the one before it held.
        self._latest = self._earlier = 0
        self._patience: asyncio.TimerHandle | None = None
        self._task = begin(self._run())

    def wake(self) -> None:
        self._queued.set()

    def drop(self, why: str) -> None:
        """The peer is to leave the set."""
        self._petition.drop(why)

    def stop(self) -> None:
        self._hush()
        self._petition.stop()
        self._task.cancel()

    @property
    def _rate(self) -> float:
        return self._rates.get(self._peer.server, FIRST_RATE_BYTES_PER_SECOND)

    async def _run(self) -> None:
        while True:
            term = self._replica.term
            try:
                await self._next(term)
            except RefusedError as error:
                if error.code == "stale-term":
                    # Or it was this copy itself that has promised a higher term meanwhile.
                    if self._replica.term == term:
                        self._superseded()
                        return
                else:
                    await self._pause(error)
            except (UnreachableError, FrameError, AddressError) as error:
                if isinstance(error, AddressError):
                    self._petition.drop(f"it cannot be reached: {error}")
                elif isinstance(error, UnreachableError) and error.refused:
                    self._petition.drop(f"it is not there any more: {error}")
                await self._pause(error)

    async def _next(self, term: int) -> None:
        """Send the next message, or wait until there is something to send."""
        self._queued.clear()
        if self._needs_image:
            await self._install()
        elif self._at is None:
            await self._append(term, self._replica.at, ())
        else:
            limit = min(MESSAGE_LIMIT_BYTES, max(MEASURED_BYTES, self._rate * MESSAGE_SECONDS))
            entries = self._replica.entries_after(self._at, int(limit))
            if entries is None:
                self._needs_image = True
                self._petition.drop("it lags behind what the primary has in memory")
            elif entries:
                if len(entries) < self._wanted:
                    await self._gather(self._at.index + self._wanted)
                    entries = self._replica.entries_after(self._at, int(limit)) or entries
                self._earlier, self._latest = self._latest, len(entries)
                await self._append(term, self._at, entries)
            else:
                await self._queued.wait()

    @property
    def _wanted(self) -> int:
        """Half of what the two latest messages held.

        While the peer is at work on one half, the workers of the other half are answered and push
        again. Without this the first push goes alone, and all others wait for its answer.
        """
        return (self._latest + self._earlier) // 2

    async def _gather(self, index: int) -> None:
        """Return when there is an entry of this index, or soon."""
        late = False

        def end() -> None:
            nonlocal late
            late = True
            self._queued.set()

        timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, end)
        try:
            while self._replica.at.index < index and not late:
                self._queued.clear()
                await self._queued.wait()
        finally:
            timer.cancel()

    async def _append(self, term: int, before: Position, entries: Sequence[Entry]) -> None:
        parts = append_parts(Append(self._shard, term, before), entries)
        latest, sent_at = self._replica.at.index, self._line.clock.now()
        reply = await self._call(REPLICA_APPEND, parts)
        if reply.outcome == "appended":
            answered_soon = self._line.clock.now() - sent_at <= DROP_SECONDS
            self._took(reply.at, keeps_pace=answered_soon and reply.at.index >= latest)
        elif reply.outcome == "gap" and reply.at != before:
            self._at = reply.at
            if self._taken is not None and reply.at < self._taken:
                self._petition.drop("it has lost what it had taken")
        elif reply.outcome == "gap" and self._is_handed_out:
            await self._line.clock.sleep(self._jittered(LOOK_AGAIN_SECONDS))
        else:
            if reply.outcome == "differs":
                # It must not be promoted, whatever the image may come to.
                self._petition.drop("its copy is another than the primary's")
            self._needs_image = True

    async def _install(self) -> None:
        order, arrays = self._replica.order()
        reply = await self._call(REPLICA_INSTALL, [pack(order, arrays)])
        self._needs_image = False
        if reply.outcome == "appended":
            self._took(reply.at)
        else:
            self._at = reply.at

    @property
    def _is_handed_out(self) -> bool:
        """Whether the supervisor is about to give this backup its copy."""
        young = self._line.clock.now() - self._began < HANDING_OUT_SECONDS
        return self._role == "backup" and young and self._taken is None

    @property
    def _role(self) -> str | None:
        reign = self._replica.reign
        return None if reign is None else reign.role_of(self._peer.server)

    async def _call(self, path: str, parts: Sequence[Buffer]) -> Appended:
        size = sum(map(len, parts))
        self._expect(size)
        began = self._line.clock.now()
        body = await ask_bytes(
            self._line.transport,
            self._address,
            path,
            parts,
            limit_bytes=REPLY_LIMIT_BYTES,
            timeout_seconds=ANSWER_SECONDS + size / SLOWEST_LINK_BYTES_PER_SECOND,
        )
        reply = decoded(body, Appended, f"{self._address.url}{path}")
        if reply.server != self._peer.server:
            raise UnreachableError(f"another server answers at {self._address.url}", refused=True)
        self._hush()
        self._replica.heard(self._peer.server, reply.at)
        self._released()
        seconds = self._line.clock.now() - began
        if size >= MEASURED_BYTES and seconds > 0:
            self._rates[self._peer.server] = 0.5 * (self._rate + size / seconds)
        return reply

    def _took(self, at: Position, *, keeps_pace: bool = False) -> None:
        """The peer has everything up to `at`.

        keeps_pace: it lacks only what was written since it was sent its last message, just now.
        """
        self._at = self._taken = at
        self._failures = 0
        self._problem = ""
        self._petition.answered()
        if self._role == "learner" and (keeps_pace or self._lacks_little(at)):
            self._petition.admit()

    def _lacks_little(self, at: Position) -> bool:
        latest = self._replica.at.index
        if latest - at.index <= ADMIT_LAG:
            return True
        missing = self._replica.entries_after(at, int(self._rate * ADMIT_SECONDS))
        return missing is not None and missing[-1].index == latest

    def _expect(self, size: int) -> None:
        """Something is sent: the peer is to answer in time."""
        if self._patience is None:
            self._wait(DROP_SECONDS + 2 * size / self._rate)

    def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._patience = loop.call_at(loop.time() + seconds, self._silent, seconds)

    def _silent(self, seconds: float) -> None:
        assert self._patience is not None
        late = asyncio.get_running_loop().time() - self._patience.when()
        if late > ASLEEP_SECONDS:
            # Its answer may be here already, unread.
            self._wait(DROP_SECONDS)
            return
        self._patience = None
        problem = f" ({self._problem})" if self._problem else ""
        self._petition.drop(f"it has not answered for {seconds:.1f} s{problem}")

    def _hush(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    async def _pause(self, error: PsedgeError) -> None:
        """After a failure; the peer may have lost what it had."""
        self._failures += 1
        self._at = None
        self._problem = str(error)
        ceiling = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 16))
        await self._line.clock.sleep(self._jittered(ceiling))

    def _jittered(self, ceiling: float) -> float:
        return ceiling * self._random.uniform(0.5, 1.0)
