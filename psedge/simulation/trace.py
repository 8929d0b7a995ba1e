"""What happened in a simulation, in order: a digest of all of it, and what people want to see."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

#: Events kept for the timeline; a run that has more keeps the first ones and says how many.
EVENTS_LIMIT = 10_000
#: What a device may be doing.
LANE_STATES = ("computing", "waiting", "transferring", "dead", "away")


class Event(msgspec.Struct, frozen=True):
    """at: virtual seconds. kind: such as `fault`, `note`. node: the host it happened on."""

    at: float
    kind: str
    node: str
    text: str


class Trace:
    """The record of one run.

    now: true virtual seconds. lanes: whether what devices do is kept, which costs memory in
    proportion to steps.
    """

    def __init__(self, now: Callable[[], float], *, lanes: bool = False) -> None:
        self.events: list[Event] = []
        self.lanes: dict[str, list[tuple[float, str]]] = {}
        self.recorded = 0
        self.left_out = 0
        self._keep_lanes = lanes
        self._now = now
        self._hash = hashlib.blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """Of everything that was recorded so far, with its times to the last bit."""
        return self._hash.hexdigest()

    def record(self, kind: str, node: str, text: str = "", *, notable: bool = False) -> None:
        """Something happened now. notable: people want to see it in the timeline."""
        now = self._now()
        self.recorded += 1
        self._hash.update(f"{now!r} {kind} {node} {text}\n".encode())
        if not notable:
            return
        if len(self.events) < EVENTS_LIMIT:
            self.events.append(Event(now, kind, node, text))
        else:
            self.left_out += 1

    def lane(self, node: str, state: str) -> None:
        """From now on a device is in `state`, one of LANE_STATES."""
        if not self._keep_lanes:
            return
        lane = self.lanes.setdefault(node, [])
        if not lane or lane[-1][1] != state:
            lane.append((self._now(), state))
