"""What a primary asks of the supervisor about one peer: to drop it from the set, or to admit it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Literal

from psedge.protocol.calls import ask
from psedge.protocol.errors import FrameError, RefusedError, UnreachableError
from psedge.protocol.replicas import SET_CHANGE, Peer, Reign, SetChange
from psedge.server.background import begin
from psedge.server.line import Line
from psedge.server.replica import Replica

Wish = Literal["drop", "admit"]

ANSWER_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0


class Petition:
    """Asks until it is granted, or wanted no more. A wish to drop takes the place of the other."""

    def __init__(
        self,
        replica: Replica,
        peer: Peer,
        line: Line,
        released: Callable[[], None],
        superseded: Callable[[], None],
        random: Random,
    ) -> None:
        self._replica = replica
        self._peer = peer
        self._line = line
        self._released = released
        self._superseded = superseded
        self._random = random
        self._wish: Wish | None = None
        self._why = ""
        self._task: asyncio.Task[None] | None = None

    def drop(self, why: str) -> None:
        """The peer fails those who wait for it, if it is in the set."""
        if self._counts:
            self._begin("drop", why)

    def admit(self) -> None:
        """The peer has caught up."""
        if self._is_learner and self._replica.admitting(self._peer.server):
            self._begin("admit", "it has caught up with the primary")

    def answered(self) -> None:
        """The peer has taken what it was sent: there is no reason to drop it any more."""
        if not self._replica.peer_table.trust(self._peer.server):
            # It may have been dropped already. Asked once more, the supervisor says which.
            self._begin("drop", self._why)
        elif self._wish == "drop":
            self._wish = None
            self._released()

    def stop(self) -> None:
        self._wish = None
        # Called from within itself when the supervisor's answer ends the pump.
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    @property
    def _counts(self) -> bool:
        return any(peer.server == self._peer.server for peer in self._replica.in_set())

    @property
    def _is_open(self) -> bool:
        """Whether there is a wish that no reign has granted yet."""
        if self._wish == "admit":
            return self._is_learner
        return self._wish is not None and self._counts

    @property
    def _is_learner(self) -> bool:
        reign = self._replica.reign
        return (
            self._replica.role == "primary"
            and reign is not None
            and reign.role_of(self._peer.server) == "learner"
        )

    @property
    def _may_admit(self) -> bool:
        """Whether the supervisor may grant it, perhaps without its answer ever arriving here: the
        peer counts under this very reign, and has all that was acknowledged before it did."""
        server = self._peer.server
        # With a new reign it counts no more. It does again if it still lacks nothing.
        counts = self._counts or not self._replica.lacks(server)
        return counts and self._replica.admitting(server)

    def _begin(self, wish: Wish, why: str) -> None:
        self._wish, self._why = wish, why
        if self._task is None or self._task.done():
            self._task = begin(self._ask())

    async def _ask(self) -> None:
        failures = 0
        while self._is_open:
            if await self._granted():
                continue
            failures += 1
            ceiling = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures, 16))
            await self._line.clock.sleep(ceiling * self._random.uniform(0.5, 1.0))

    async def _granted(self) -> bool:
        """Ask once. True: an answer has come that changes something."""
        replica, wish = self._replica, self._wish
        before = replica.reign
        assert before is not None
        assert wish is not None
        if wish == "admit" and not self._may_admit:
            return False
        if wish == "drop" and not replica.peer_table.doubt(self._peer.server):
            # Another backup has to catch up first: who remains must have all that was acknowledged.
            return False
        message = SetChange(
            before.shard, before.term, before.revision, self._peer.server, wish, self._why
        )
        try:
            reign = await ask(
                self._line.transport,
                self._line.supervisor,
                SET_CHANGE,
                message,
                Reign,
                timeout_seconds=ANSWER_SECONDS,
            )
        except RefusedError as error:
            if error.code == "stale-term" and replica.term == before.term:
                self._superseded()
            return False
        except (UnreachableError, FrameError):
            # The supervisor may be away for long; nobody else can grant it.
            return False
        self._line.follow(reign)
        return replica.reign is not before
