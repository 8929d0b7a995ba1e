"""What shard 0 has seen of each worker, put together from reports of what changed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable

from psedge.protocol.shards import Progress

#: Incarnations of a worker that a report is read for: the latest, and the one before, which may
#: still be accounted.
READ_INCARNATIONS = 2
#: Incarnations of a worker that are remembered. With those that it is read for, a report that was
#: overtaken by later ones must not drive out any that these have told of.
KEPT_INCARNATIONS = 8


class ProgressTable:
    """Reports may repeat and overtake each other: per incarnation, the furthest progress counts."""

    def __init__(self) -> None:
        self._workers: dict[int, dict[int, Progress]] = {}
        self._fresh: dict[tuple[int, int], Progress] = {}

    def take(self, reported: Iterable[Progress]) -> None:
        """reported: in the order in which it changed."""
        latest: dict[int, deque[Progress]] = {}
        for progress in reported:
            latest.setdefault(progress.worker, deque(maxlen=READ_INCARNATIONS)).append(progress)
        for progress in itertools.chain.from_iterable(latest.values()):
            known = self._workers.setdefault(progress.worker, {})
            before = known.get(progress.incarnation)
            if before is not None and before.sequence >= progress.sequence:
                continue
            known[progress.incarnation] = progress
            if len(known) > KEPT_INCARNATIONS:
                del known[next(iter(known))]
            self._fresh[progress.worker, progress.incarnation] = progress

    def of(self, worker: int, incarnation: int) -> Progress | None:
        """Of one incarnation; None if nothing was reported of it."""
        return self._workers.get(worker, {}).get(incarnation)

    def take_fresh(self) -> list[Progress]:
        """What has changed since the last call."""
        fresh, self._fresh = self._fresh, {}
        return list(fresh.values())
