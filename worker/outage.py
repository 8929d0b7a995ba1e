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

FIRST_PAUSE_SECONDS = 0.05
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
        self._since: float | None = None
        self._last_line: float | None = None

    @property
    def seconds(self) -> float:
        """How long it has lasted; 0 when there is none."""
        return 0.0 if self._since is None else self._clock.now() - self._since

    @property
    def told(self) -> bool:
        """Whether people know of it."""
        return self._last_line is not None

    async def pause(self, why: str = "") -> None:
        """Count a failure, and sleep before the next try.

        The first failure is not told: a kept connection that the peer closed just now looks the
        same, and the next try mends it. why: it failed to connect at all, so that it is told.
        """
        self._failures += 1
        await self._clock.sleep(self.failed(self._failures, why, certain=bool(why)))

    def failed(self, failures: int, why: str = "", *, certain: bool = False) -> float:
        """For callers that sleep by themselves: seconds until the next try.

        failures: of the same request, one after the other. why: the line's words for it.
        certain: tell people of the first one, too.
        """
        now = self._clock.now()
        if self._since is None:
            self._since = now
        if self._last_line is None and (certain or failures > 1):
            self._notify(f"{why or f'{self._who} does not answer'}; trying again")
            self._last_line = now
        elif self._last_line is not None and now - self._last_line >= REMINDER_SECONDS:
            self._notify(f"{self._who} has not answered for {self.seconds:.0f} s; trying on")
            self._last_line = now
        ceiling = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 16))
        return ceiling * self._random.uniform(0.5, 1.0)

    def answered(self) -> None:
        """The peer is there."""
        if self.told:
            self._notify(f"{self._who} answers again after {self.seconds:.0f} s")
        self._failures = 0
        self._since = self._last_line = None
