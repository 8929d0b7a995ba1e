"""From which checkpoint a shard goes on, so that a checker goes on with what it knew then.

What a run had done after its checkpoint is undone by resuming from it, and done again; that is no
violation. What was done before it must not be done again, nor be missing.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from psedge.compression.native import kernels
from psedge.protocol.shards import ShardState
from psedge.server.shard import Shard

T = TypeVar("T")

#: Checkpoints of one shard that may still be resumed from; a run keeps far fewer on its disk.
KEPT_SNAPSHOTS = 64

_Mark = tuple[int, int, int, int]


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


def _place(shard: Shard) -> tuple[int, int, int]:
    assignment = shard.assignment
    return assignment.shard, assignment.start, assignment.stop


def _mark(shard: Shard, state: ShardState) -> _Mark:
    digest = kernels.digest(shard.parameters)
    return state.version, state.samples_seen, state.pushes_refused, digest
