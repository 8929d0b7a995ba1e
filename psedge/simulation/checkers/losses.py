"""Acknowledged pushes that are gone: they are allowed only if the run says so.

A new primary without them, and a training that goes back to its checkpoint, are put into the
journal with their reasons; a server says itself what of its log it could not read. Since the
journal may reach the disk a little later than the decision reaches the servers, it is compared at
the end of the run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from psedge.protocol.status import Event

#: What servers say of a log, or of a snapshot in it, that is not whole.
_OF_A_LOG = re.compile(
    r"log of shard (\d+) ends .* cut off|shard (\d+) cannot be recovered|shard-(\d+)/.* are lost"
)
#: Decisions of a run that give up what came after a checkpoint.
_GOING_BACK = ("go back", "start")


@dataclass(frozen=True, slots=True)
class Loss:
    """at: virtual seconds. text: what is gone, in words. back: it went with everything after a
    checkpoint."""

    at: float
    host: str
    shard: int
    text: str
    back: bool


class Losses:
    """What was lost so far, and whether anybody has said so."""

    def __init__(self) -> None:
        self._open: list[Loss] = []
        #: Shards of which a server has said that a part of the log is lost.
        self._told: set[int] = set()

    def noted(self, text: str) -> None:
        """A program has told people something."""
        found = _OF_A_LOG.search(text)
        if found is not None:
            self._told.add(int(found[1] or found[2] or found[3]))

    def enter(self, loss: Loss) -> None:
        self._open.append(loss)

    def clear(self) -> None:
        """Another run begins, which goes on with nothing of this one."""
        self._open.clear()
        self._told.clear()

    def gave_up(self, since: Sequence[float]) -> None:
        """The run goes back to what its shards were then, and has to say so: what was lost after
        that goes with everything else. since: virtual seconds, by shard."""
        self._open = [
            replace(loss, back=loss.back or loss.at > since[loss.shard]) for loss in self._open
        ]

    def said(self, shard: int, journal: Sequence[Event]) -> bool:
        """Whether anybody has said that a part of a shard's log is lost."""
        return shard in self._told or any(_tells(event, shard) for event in journal)

    def unreported(self, journal: Sequence[Event]) -> list[Loss]:
        """Those that a journal does not account for."""
        gone_back = any(_goes_back(event) for event in journal)
        left = []
        for loss in self._open:
            if loss.back and gone_back:
                continue
            if not loss.back and self.said(loss.shard, journal):
                continue
            left.append(loss)
        self._open.clear()
        return left


def _goes_back(event: Event) -> bool:
    return event.kind == "run" and event.decision in _GOING_BACK and "lost" in event.reason


def _tells(event: Event, shard: int) -> bool:
    return event.subject == f"shard {shard}" and "lost" in event.reason
