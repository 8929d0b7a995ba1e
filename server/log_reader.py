"""Puts a shard's log together from its segments, and finds where it ends.

A log is read up to its first entry that is not whole: what comes after cannot be applied without
it. An entry that is damaged in one segment may be whole in the next one: a write that failed is
repeated there. Segments of an older lineage are left over and never looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

from psedge.protocol.errors import FrameError
from psedge.protocol.log_entry import Entry
from psedge.protocol.replicas import Position
from psedge.server.segment import (
    Entries,
    SegmentHeader,
    decode_segment,
    decode_segment_header,
)

#: What becomes of the rest of a log that breaks off, where a server goes on with it.
CUT_OFF = "cut off"


@dataclass(slots=True)
class Loss:
    """Where a log breaks off. index: the first entry that is lost. name: the file that it was in.

    lost_bytes, after: of and behind that entry; at least so many whole entries come after it.
    """

    name: str
    index: int
    why: str
    lost_bytes: int
    after: int

    def sentence(self, shard: int, fate: str = CUT_OFF) -> str:
        """What a person needs to know. fate: what becomes of the rest."""
        return f"the log of shard {shard} ends with entry {self.index - 1}: {self.found(fate)}"

    def found(self, fate: str = CUT_OFF) -> str:
        """What is wrong with which file, and what that costs."""
        what = f"{self.name} {self.why or f'ends in the middle of entry {self.index}'}"
        if not self.lost_bytes:
            return what
        lost = "byte from there on is" if self.lost_bytes == 1 else "bytes from there on are"
        cut = f"the {self.lost_bytes:,} {lost} {fate}"
        if self.after:
            entries = "1 whole entry" if self.after == 1 else f"{self.after:,} whole entries"
            cut += f", {entries} among them"
        return f"{what}; {cut}"


class LogReader:
    """Reads on from a snapshot, one segment after the other in the order of their names.

    at: the latest entry so far. taken_bytes: of the entries read so far. stale: names of segments
    of older lineages. newer: of one of a newer lineage, whose snapshot must be missing, or empty.
    """

    def __init__(self, run: str, shard: int, lineage: int, at: Position) -> None:
        self.at = at
        self.taken_bytes = 0
        self.newer = ""
        self.stale: list[str] = []
        self.loss: Loss | None = None
        self._run = run
        self._shard = shard
        self._lineage = lineage

    def add(self, name: str, content: bytes) -> list[Entry]:
        """The entries of the next segment that come next in the log; their bodies are in `content`.

        name: of its file, for people. Nothing is raised, whatever the bytes are.
        """
        data = memoryview(content)
        try:
            header, data = decode_segment_header(data)
        except FrameError as error:
            return self._break(name, f"cannot be read ({error})", Entries([], len(data)))
        if (header.run, header.shard) != (self._run, self._shard):
            why = f"is of shard {header.shard} of run {header.run!r}"
            return self._break(name, why, Entries([], len(data)))
        if header.lineage < self._lineage:
            self.stale.append(name)
            return []
        if header.lineage > self._lineage:
            self.newer = name
            return []
        return self._take(name, header, decode_segment(data, header.first, header.term_before))

    def _take(self, name: str, header: SegmentHeader, found: Entries) -> list[Entry]:
        following = self.at.index + 1
        if header.first > following:
            why = f"begins with entry {header.first}, {_missing(following, header.first)}"
            return self._break(name, why, found)
        if header.first == following and header.term_before != self.at.term:
            why = f"does not follow entry {self.at.index} of term {self.at.term}"
            return self._break(name, why, found)
        # Who began this segment knew which entry came next: what an earlier one lacks is not lost.
        self.loss = None
        taken = [entry for entry in found.entries if entry.index >= following]
        if taken:
            self.at = Position(taken[-1].term, taken[-1].index)
            self.taken_bytes += sum(entry.size for entry in taken)
        broken_at = header.first + len(found.entries)
        if found.lost_bytes and (broken_at > self.at.index or found.after):
            why = found.why and f"is damaged at entry {broken_at} ({found.why})"
            if found.after and not why:
                why = f"is damaged at entry {broken_at}"
            self._break(name, why, Entries([], found.lost_bytes, found.after))
        return taken

    def _break(self, name: str, why: str, lost: Entries) -> list[Entry]:
        """Note that the log ends here, and count what is in this segment."""
        lost_bytes = lost.lost_bytes + sum(entry.size for entry in lost.entries)
        after = len(lost.entries) + lost.after
        if self.loss is None:
            self.loss = Loss(name, self.at.index + 1, why, lost_bytes, after)
        else:
            self.loss.lost_bytes += lost_bytes
            self.loss.after += after
        return []


def _missing(first: int, stop: int) -> str:
    return (
        f"and entry {first} is missing"
        if stop == first + 1
        else f"and {first} to {stop - 1} are missing"
    )
