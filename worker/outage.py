"""How long to wait for a peer that does not answer, and what to tell people meanwhile.

One line when an outage is certain, one every so often while it lasts, one when it is over. Pauses
grow exponentially to a bound and are drawn at random below it, so that many workers do not come
back in step (Brooker 2015, "Exponential backoff and jitter").
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from psedge.protocol.ports import Clock

Notify = Callable[[str], None]

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 3.0
REMINDER_SECONDS = 10.0


class Outage:
    """The silence of one peer, from its first unanswered request to its next answer.

    who: the peer in words, such as `server http://pc.local:7700`.
    seed: of the jitter; workers should differ in it.
    """

    def __init__(self, clock: Clock, notify: Notify, who: str, seed: int) -> None:
        self._clock = clock
        self._notify = notify
        self._who = who
        # Jitter spreads load and guards nothing, so its source may be predictable.
        self._random = Random(seed)  # noqa: S311
        self._failures = 0
        self._since = 0.0
        self._last_line: float | None = None

    @property
    def seconds(self) -> float:
        """How long it has lasted; 0 when there is none."""
        return self._clock.now() - self._since if self._failures else 0.0

    async def pause(self, why: str = "") -> None:
        """Count a failure, and sleep before the next try.

        The first failure is not told: a kept connection that the peer closed just now looks the
        same, and the next try mends it. why: it failed to connect at all, so that it is told.
        """
        now = self._clock.now()
        self._failures += 1
        if self._failures == 1:
            self._since = now
        told_at = self._last_line
        if told_at is None and (why or self._failures > 1):
            self._notify(f"{why or f'{self._who} does not answer'}; trying again")
            self._last_line = now
        elif told_at is not None and now - told_at >= REMINDER_SECONDS:
            self._notify(f"{self._who} has not answered for {now - self._since:.0f} s; trying on")
            self._last_line = now
        ceiling = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 16))
        await self._clock.sleep(ceiling * self._random.uniform(0.5, 1.0))

    def answered(self) -> None:
        """The peer is there."""
        if self._last_line is not None:
            self._notify(f"{self._who} answers again after {self.seconds:.0f} s")
        self._failures = 0
        self._last_line = None
