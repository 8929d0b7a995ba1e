"""What the supervisor decided, and why: the latest events of a run, for people.

The record of a run (`metrics.jsonl`) keeps notes for ever; the journal keeps every decision, with
the figures behind it, as long as there is room.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable

from psedge.protocol.status import Event

#: Events that are kept, in memory and in the supervisor's store.
KEPT_EVENTS = 10_000
#: Events of losses that each checkpoint keeps as well, for whoever goes on from it without a book.
KEPT_LOSSES = 100


class Journal:
    """Events in the order in which they happened; the oldest make room for new ones."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        """events: of earlier supervisors of the run, in any order."""
        self._events = deque(sorted(events, key=lambda event: event.number), KEPT_EVENTS)

    def __len__(self) -> int:
        return len(self._events)

    def add(
        self, at: float, kind: str, subject: str, decision: str, reason: str, *, lost: bool = False
    ) -> Event:
        """Note something and return it with its number; see `Event`."""
        number = self._events[-1].number + 1 if self._events else 0
        event = Event(number, at, kind, subject, decision, reason, lost)
        self._events.append(event)
        return event

    def latest(self, most: int) -> tuple[Event, ...]:
        """The latest ones, the oldest of them first."""
        count = len(self._events)
        return tuple(self._events[index] for index in range(max(count - most, 0), count))

    def losses(self) -> tuple[Event, ...]:
        """The latest ones that say what was lost, `KEPT_LOSSES` at most, the oldest first."""
        found = (event for event in reversed(self._events) if event.lost)
        return tuple(itertools.islice(found, KEPT_LOSSES))[::-1]

    @staticmethod
    def slot(event: Event) -> int:
        """Where a store keeps it, in place of one that is so old that it is no longer kept."""
        return event.number % KEPT_EVENTS
