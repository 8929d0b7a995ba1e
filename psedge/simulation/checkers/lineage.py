"""From which state a copy of a shard goes on, so that a checker goes on with what it knew then.

What a run had done after its checkpoint is undone by resuming from it, and done again; that is no
violation. What was done before it must not be done again, nor be missing. A backup goes on from an
image of its primary, and a server that comes back from one on its disk.
"""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import WeakSet

import msgspec

from psedge.compression.native import kernels
from psedge.protocol.shards import ShardState
from psedge.server.replica import Replica
from psedge.server.shard import Shard
from psedge.supervisor.service import Supervisor

T = TypeVar("T")

#: States of one shard that may still be gone on from; a disk keeps far fewer.
KEPT_SNAPSHOTS = 64

_Mark = tuple[int, ...]


class Snapshots(Generic[T]):
    """A checker's books of each shard as they were when its state was taken."""

    def __init__(self) -> None:
        self._taken: dict[tuple[int, int, int], deque[tuple[_Mark, T]]] = {}

    def take(self, shard: Shard, state: ShardState, books: T) -> None:
        """Keep `books`, which must not change any more."""
        taken = self._taken.setdefault(_place(shard), deque(maxlen=KEPT_SNAPSHOTS))
        taken.append((_mark(shard, state), books))

    def find(self, shard: Shard, state: ShardState) -> T | None:
        """The books of a shard that was restored from `state` just now.

        None: that state was never taken here, for instance because the model was cut otherwise.
        """
        wanted = _mark(shard, state)
        for mark, books in reversed(self._taken.get(_place(shard), ())):
            if mark == wanted:
                return books
        return None


@dataclass(frozen=True, slots=True)
class Primary:
    """Who reigns: on which host, in which term."""

    host: str
    term: int
    replica: Replica


class Reigning:
    """The primary of each shard in the highest term that any server has entered as one.

    A run that is begun anew has terms of its own; copies of the run before do not count any more.
    """

    def __init__(self) -> None:
        self._primaries: dict[int, Primary] = {}
        self._run = ""
        #: Copies of runs before this one.
        self._strange: WeakSet[Shard] = WeakSet()
        self._known: WeakSet[Shard] = WeakSet()

    def run_started(self, supervisor: Supervisor) -> bool:
        """Returns whether it is another run than the one before."""
        book = supervisor.state.book
        run = "" if book is None else book.identity
        another, self._run = bool(self._run) and run != self._run, run
        if another:
            self._primaries.clear()
            self._strange |= self._known
            self._known = WeakSet()
        return another

    def made(self, shard: Shard) -> None:
        """A copy has been made."""
        self._known.add(shard)

    def is_of_this_run(self, shard: Shard) -> bool:
        return shard not in self._strange

    def changed(self, host: str, replica: Replica) -> bool:
        """A copy has changed. Returns whether that made it a primary of a term that is new."""
        number = replica.shard.assignment.shard
        known = self._primaries.get(number)
        if replica.role != "primary" or (known is not None and known.term > replica.term):
            return False
        if replica.shard in self._strange:
            return False
        new = known is None or (known.term, known.replica) != (replica.term, replica)
        self._primaries[number] = Primary(host, replica.term, replica)
        return new

    def of(self, number: int) -> Primary | None:
        """The latest one, dead or alive."""
        return self._primaries.get(number)

    def shard(self, number: int) -> Shard | None:
        """What the latest primary holds."""
        primary = self._primaries.get(number)
        return None if primary is None else primary.replica.shard

    def numbers(self) -> list[int]:
        """Shards that ever had a primary."""
        return sorted(self._primaries)


def _place(shard: Shard) -> tuple[int, int, int]:
    assignment = shard.assignment
    return assignment.shard, assignment.start, assignment.stop


def _mark(shard: Shard, state: ShardState) -> _Mark:
    digest = kernels.digest(shard.parameters)
    if state.accounts is not None:
        return zlib.crc32(msgspec.json.encode(state)), digest
    return state.version, state.samples_seen, state.pushes_refused, digest
