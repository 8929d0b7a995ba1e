"""One message on its way over TCP: when which of its bytes are sent, lost, repeated and delivered.

A message is cut into groups of segments. Each takes its turn on the sender's link, then on the
receiver's, so that flows share links fairly, and arrives when its last byte does; segments of a
group follow each other closely, so that a message does not wait twice for its own length.

A flow may have a window's worth of bytes unacknowledged (RFC 5681, with the decrease of RFC 9438),
which starts anew after a pause. What is lost comes a round trip later; when nothing follows that
would tell of the loss, after a probe (RFC 8985), and if there is nothing to probe with, a
retransmission timeout later (RFC 6298).
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from psedge.simulation.network.links import SEGMENT_BYTES, wire_bytes
from psedge.simulation.network.route import Route

INITIAL_WINDOW_BYTES = 10 * SEGMENT_BYTES
LARGEST_WINDOW_BYTES = 4 * 2**20
#: A retransmission timeout, which doubles each time up to a limit; also the pause after which a
#: window starts anew.
TIMEOUT_SECONDS = 0.2
LONGEST_TIMEOUT_SECONDS = 120.0
#: Before a probe for a lost tail, beside two round trips: two ticks of Linux' clock.
PROBE_SECONDS = 0.008
#: A sender that hears nothing for so long gives its connection up (Linux, tcp_retries2 = 15).
GIVE_UP_SECONDS = 924.6
#: What is lost on a link that works is lost again at most so many times.
RETRIES_LIMIT = 15
#: A message up to this size needs no second look when it has passed the first link.
SHORT_BYTES = 3 * SEGMENT_BYTES
#: Of a window that is smaller than its message, groups take a quarter, or so much.
LEAST_GROUP_SEGMENTS = 4
NEVER = float("inf")
_LEAST_REORDERING_SECONDS = 0.001


class Chance(Protocol):
    """A source of chance, seeded elsewhere."""

    def random(self) -> float:
        """Uniform, from 0 up to 1."""
        ...


class Congestion:
    """What one end of a connection has learnt about the way to the other."""

    __slots__ = ("threshold", "used_at", "window")

    def __init__(self) -> None:
        self.window = INITIAL_WINDOW_BYTES
        self.threshold = LARGEST_WINDOW_BYTES
        self.used_at = 0.0

    def begin(self, now: float) -> None:
        """A message starts."""
        if now - self.used_at > TIMEOUT_SECONDS:
            self.window = min(self.window, INITIAL_WINDOW_BYTES)

    def acknowledged(self, amount: int) -> None:
        if self.window < self.threshold:
            self.window = min(self.window + amount, LARGEST_WINDOW_BYTES)
        else:
            self.window += max(1, amount * SEGMENT_BYTES // self.window)

    def lost(self) -> None:
        self.threshold = self.window = max(self.window * 7 // 10, 2 * SEGMENT_BYTES)


class Flow:
    """A message of `size` bytes with its HTTP head.

    allowance: bytes that the receiver has room for, counted from the message's first one.
    random: for what goes wrong.
    """

    __slots__ = (
        "_done",
        "_first",
        "_floor",
        "_in_flight",
        "_random",
        "_silent_since",
        "_timeout",
        "_unacknowledged",
        "allowance",
        "control",
        "delivered",
        "given_up",
        "group",
        "pumping",
        "route",
        "sent",
        "size",
    )

    def __init__(
        self, route: Route, control: Congestion, size: int, allowance: float, random: Chance
    ) -> None:
        self.route = route
        self.control = control
        self.size = size
        self.allowance = allowance
        self.sent = 0
        self.delivered = 0
        #: Bytes that are passing the first link.
        self.group = 0
        #: Whether its owner has a timer running for it, for the next `advance` or `cross`.
        self.pumping = False
        #: Silence has lasted so long that the connection counts as dead.
        self.given_up = False
        self._random = random
        self._first = 0.0
        self._done = 0.0
        self._floor = 0.0
        self._in_flight = 0
        #: When which number of bytes will be acknowledged.
        self._unacknowledged: deque[tuple[float, int]] | None = None
        self._timeout = TIMEOUT_SECONDS
        self._silent_since = -1.0

    def advance(self, now: float) -> float | None:
        """Put the next group on the first link, if it may be sent now.

        Returns when to come again, with `cross` if there is a `group`; None: the message is sent,
        the receiver has no room and `allowance` has to grow first, or it is `given_up`.
        """
        self.group = 0
        left = self.size - self.sent
        allowed = self.allowance - self.sent
        if left <= 0 or allowed <= 0:
            return None
        route = self.route
        room = self.control.window
        if self._unacknowledged:
            room -= self._still_in_flight(now)
            if room < min(left, SEGMENT_BYTES):
                return self._acknowledgement(now)
        group = left
        if left > SEGMENT_BYTES:
            longest = route.group_bytes
            if left > room:
                # Acknowledgements for parts of a window keep the next parts coming without a gap.
                parts = self.control.window // (4 * SEGMENT_BYTES)
                longest = min(longest, max(parts, LEAST_GROUP_SEGMENTS) * SEGMENT_BYTES)
            group = min(left, room, longest)
        if allowed < group:
            group = int(allowed)
        wire = wire_bytes(group)
        seconds = wire * route.up
        self._done = route.source.up.reserve(now, seconds)
        self._first = self._done - seconds
        route.source.sent_bytes += wire
        self.group = group
        self.sent += group
        return self._done

    @property
    def short(self) -> bool:
        """Whether the group that was put on the first link is a whole, short message."""
        return self.group == self.size <= SHORT_BYTES

    def cross(self, now: float) -> float | None:
        """Put the group on the second link; returns when it is delivered.

        now: when it has passed the first link, or before for a short message. None: the network
        swallowed it, and `backoff` says when to try again.
        """
        route, group = self.route, self.group
        self.group = 0
        if not route.open:
            self.sent -= group
            return None
        self._silent_since = -1.0
        self._timeout = TIMEOUT_SECONDS
        wire = wire_bytes(group)
        seconds = wire * route.down
        shift = route.delay
        if route.jitter:
            shift += route.jitter * self._random.random()
        first, last = self._first + shift, self._done + shift
        down = route.target.down
        free_at = down.free_at
        queued_until = (first if first > free_at else free_at) + seconds
        finish = last + (wire if wire < SEGMENT_BYTES else SEGMENT_BYTES) * route.down
        if finish < queued_until:
            finish = queued_until
        # A short message looks ahead: what arrives before it must not have to wait behind it.
        if now >= self._done:
            down.free_at = queued_until
        else:
            down.free_at = (now if now > free_at else free_at) + seconds
        route.target.received_bytes += wire
        queue = queued_until - last
        overflow = int(queue / route.down) - route.buffer_bytes
        if overflow > 0 or route.loss or route.duplication or route.reordering:
            finish = self._troubled(group, finish, overflow, max(queue, 0.0))
        if finish < self._floor:
            finish = self._floor
        self._floor = finish
        self._expect_acknowledgement(group, finish)
        return finish

    @property
    def arrives_at(self) -> float:
        """When what was sent so far will have been delivered, as far as it has crossed."""
        return self._floor

    def swallowed(self, amount: int) -> None:
        """A group did not arrive after all: its receiver is gone."""
        self.sent -= amount

    def backoff(self, now: float) -> float | None:
        """When to try again after silence; None if it has lasted too long: `given_up`."""
        if self._silent_since < 0:
            self._silent_since = now
        if now - self._silent_since > GIVE_UP_SECONDS:
            self.given_up = True
            return None
        pause = self._timeout
        self._timeout = min(2 * pause, LONGEST_TIMEOUT_SECONDS)
        self.control.window = INITIAL_WINDOW_BYTES
        return now + pause

    def _still_in_flight(self, now: float) -> int:
        waiting = self._unacknowledged
        assert waiting is not None
        while waiting and waiting[0][0] <= now:
            amount = waiting.popleft()[1]
            self._in_flight -= amount
            self.control.acknowledged(amount)
        return self._in_flight

    def _acknowledgement(self, now: float) -> float | None:
        """When there will be room in the window."""
        assert self._unacknowledged is not None
        at = self._unacknowledged[0][0]
        if at != NEVER:
            return at
        if not self.route.acknowledged:
            return self.backoff(now)
        # The way back is open again: what is sent once more is acknowledged.
        self._unacknowledged.clear()
        self._in_flight = 0
        self._silent_since = -1.0
        return now + 2 * self.route.delay

    def _expect_acknowledgement(self, group: int, finish: float) -> None:
        route = self.route
        if self.sent == self.size and route.acknowledged:
            self.control.acknowledged(self._in_flight + group)
            self.control.used_at = finish
            return
        if self._unacknowledged is None:
            self._unacknowledged = deque()
        at = finish + route.delay if route.acknowledged else NEVER
        self._unacknowledged.append((at, group))
        self._in_flight += group

    def _troubled(self, group: int, finish: float, overflow: int, queue: float) -> float:
        """When a group has arrived whole, with what befalls single segments of it.

        queue: seconds that the last of it waits at the second link.
        """
        route, random = self.route, self._random
        segments = -(-group // SEGMENT_BYTES)
        lost = min(max(overflow, 0), group)
        if route.loss:
            dropped = sum(random.random() < route.loss for _ in range(segments))
            lost = min(lost + dropped * SEGMENT_BYTES, group)
        if route.reordering and _any(random, route.reordering, segments):
            finish += random.random() * max(route.delay, _LEAST_REORDERING_SECONDS)
        if route.duplication and _any(random, route.duplication, segments):
            again = wire_bytes(min(group, SEGMENT_BYTES))
            route.target.received_bytes += again
            route.target.down.free_at += again * route.down
        return self._repeated(finish, lost, 2 * route.delay + queue) if lost else finish

    def _repeated(self, finish: float, lost: int, round_trip: float) -> float:
        """When what was lost has arrived, sent once more or several times."""
        route = self.route
        self.control.lost()
        wire = wire_bytes(lost)
        segments = -(-lost // SEGMENT_BYTES)
        # Later segments tell of a loss. For the last ones a probe does, unless they are a message's
        # only one, whose acknowledgement may just be late.
        pause = round_trip
        if self.size <= SEGMENT_BYTES:
            pause = TIMEOUT_SECONDS
        elif self.sent == self.size:
            pause = 3 * round_trip + PROBE_SECONDS
        timeout = TIMEOUT_SECONDS
        for _ in range(RETRIES_LIMIT):
            finish += pause + wire * max(route.up, route.down)
            route.source.up.free_at += wire * route.up
            route.target.down.free_at += wire * route.down
            route.source.sent_bytes += wire
            route.target.received_bytes += wire
            if not route.loss or not _any(self._random, route.loss, segments):
                break
            timeout *= 2
            pause = timeout
        return finish


def _any(random: Chance, probability: float, times: int) -> bool:
    """Whether something of that probability happens at least once in so many tries."""
    return random.random() >= (1.0 - probability) ** times
