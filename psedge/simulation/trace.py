"""What happened in a simulation, in order: a digest of all of it, and what people want to see."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

#: Events kept for the timeline; a run that has more keeps the first ones and says how many.
EVENTS_LIMIT = 10_000
#: Records that are hashed at a time.
BLOCK_RECORDS = 256
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
        self._block: list[str] = []
        #: What a frozen device will go on with.
        self._frozen: dict[str, str] = {}

    @property
    def digest(self) -> str:
        """Of everything that was recorded so far, with its times to the last bit."""
        self._hash_block()
        return self._hash.hexdigest()

    def record(self, kind: str, node: str, text: str = "", *, notable: bool = False) -> None:
        """Something happened now. notable: people want to see it in the timeline."""
        now = self._now()
        self.recorded += 1
        block = self._block
        block.append(f"{now!r} {kind} {node} {text}\n")
        if len(block) == BLOCK_RECORDS:
            self._hash_block()
        if not notable:
            return
        if len(self.events) < EVENTS_LIMIT:
            self.events.append(Event(now, kind, node, text))
        else:
            self.left_out += 1

    def _hash_block(self) -> None:
        self._hash.update("".join(self._block).encode())
        self._block.clear()

    def lane(self, node: str, state: str) -> None:
        """From now on a device is in `state`, one of LANE_STATES."""
        if not self._keep_lanes:
            return
        if node in self._frozen:
            if state not in ("dead", "away"):
                # What others make of it meanwhile, such as a server that answers, shows later.
                self._frozen[node] = state
                return
            del self._frozen[node]
        lane = self.lanes.setdefault(node, [])
        if not lane or lane[-1][1] != state:
            lane.append((self._now(), state))

    def freeze(self, node: str) -> None:
        """A device shows as dead until it is thawed or restarted."""
        lane = self.lanes.get(node)
        state = lane[-1][1] if lane else "waiting"
        if self._keep_lanes and node not in self._frozen and state not in ("dead", "away"):
            self.lane(node, "dead")
            self._frozen[node] = state

    def thaw(self, node: str) -> None:
        """A frozen device goes on with what it did."""
        state = self._frozen.pop(node, None)
        if state is not None:
            self.lane(node, state)
