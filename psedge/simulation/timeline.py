"""What happened in a simulated run, in order, for people: on the terminal and as a text file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.table import Table
from rich.text import Text

from psedge.simulation.outcome import Violation
from psedge.simulation.trace import Event
from psedge.terminal import figures

#: What tells of itself first when there is no room for everything; the others rank last.
_RANKS = {"violation": 0, "fault": 1, "run": 1, "recovery": 2, "note": 3}
_LAST_RANK = 4
_STYLES = {
    "violation": "bold red",
    "fault": "red",
    "recovery": "green",
    "join": "green",
    "leave": "yellow",
    "evaluation": "cyan",
    "checkpoint": "blue",
    "note": "yellow",
}
#: What supervisors note of the codecs that a worker has chosen for itself.
_CODEC_CHOICE = re.compile(r"worker (\S+): ([\w+.-]+): [^;]* up\b[^;]*; ([\w+.-]+): ")
#: The same at several hosts within this virtual time is one entry.
_TOGETHER_SECONDS = 5.0
_LOOKED_BACK = 12
_NODES_NAMED = 3
#: Shorter runs are told with tenths of seconds.
_PRECISE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a timeline: the same at one host or at several. at: of the first, in seconds."""

    at: float
    kind: str
    text: str
    nodes: tuple[str, ...]

    def same(self, other: Entry) -> bool:
        """Whether it is the same that happened, wherever and whenever."""
        return (self.kind, self.text) == (other.kind, other.text)

    @property
    def place(self) -> str:
        """`pi-1`, or `pi-1, pi-2, pi-3 and 5 more`; the text may name the host itself."""
        named = sorted(
            {node for node in self.nodes if node and node not in self.text}, key=_natural
        )
        more = len(named) - _NODES_NAMED
        if more <= 1:
            return ", ".join(named)
        return f"{', '.join(named[:_NODES_NAMED])} and {more:,} more"


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries that are not shown, for want of room."""

    entries: int


def entries_of(events: Iterable[Event], violations: Iterable[Violation] = ()) -> list[Entry]:
    """Events and violations in the order of time; the same at several hosts as one entry."""
    broken = [
        Event(one.at, "violation", one.node, f"invariant {one.invariant}: {one.text}")
        for one in violations
    ]
    known = {(event.at, event.text) for event in broken}
    told = [event for event in events if (event.at, event.text) not in known]
    result: list[Entry] = []
    for event in sorted((*told, *broken), key=lambda event: event.at):
        entry = _entry(event)
        same = next(
            (index for index in _recent(result, entry.at) if result[index].same(entry)), None
        )
        if same is None:
            result.append(entry)
        else:
            nodes = tuple(dict.fromkeys((*result[same].nodes, *entry.nodes)))
            result[same] = replace(result[same], nodes=nodes)
    return result


def _entry(event: Event) -> Entry:
    chosen = _CODEC_CHOICE.match(event.text) if event.kind == "note" else None
    if chosen is None:
        return Entry(event.at, event.kind, event.text, (event.node,))
    worker, push, pull = chosen.groups()
    what = f"{push} both ways" if push == pull else f"{push} pushes, {pull} pulls"
    return Entry(event.at, "codec", f"chose {what}", (worker,))


def _recent(entries: Sequence[Entry], at: float) -> Iterator[int]:
    """Indices of the entries that one at this time may belong to, the latest first."""
    for index in range(len(entries) - 1, -1, -1):
        if at - entries[index].at > _TOGETHER_SECONDS or len(entries) - index > _LOOKED_BACK:
            return
        yield index


def shortened(entries: Sequence[Entry], limit: int) -> list[Entry | Gap]:
    """Some `limit` entries, the most telling ones, and how many are missing between them."""
    if len(entries) <= limit:
        return list(entries)
    # Within a rank the first and the last ones tell most: how it began, and how it ended.
    ends = [min(index, len(entries) - 1 - index) for index in range(len(entries))]
    order = sorted(
        range(len(entries)),
        key=lambda index: (_RANKS.get(entries[index].kind, _LAST_RANK), ends[index]),
    )
    kept = sorted(order[:limit])
    result: list[Entry | Gap] = []
    before = -1
    for index in kept:
        result += _between(entries, before + 1, index)
        result.append(entries[index])
        before = index
    return result + _between(entries, before + 1, len(entries))


def _between(entries: Sequence[Entry], start: int, stop: int) -> list[Entry | Gap]:
    """A gap takes a line too, so it stands for more than one entry."""
    missing = stop - start
    return [Gap(missing)] if missing > 1 else list(entries[start:stop])


def condensed(entries: Sequence[Entry]) -> list[Entry]:
    """Checkpoints that follow each other as one entry: they come by the clock."""
    result: list[Entry] = []
    for kind, group in itertools.groupby(entries, lambda entry: entry.kind):
        same = list(group)
        if kind == "checkpoint" and len(same) > 2:
            first, last = same[0], same[-1]
            text = (
                f"{first.text}, … {last.text} at {clock_time(last.at, last.at < _PRECISE_SECONDS)}"
            )
            same = [Entry(first.at, kind, text, first.nodes)]
        result += same
    return result


def timeline(entries: Sequence[Entry], limit: int) -> Table:
    """The entries as a table for the terminal, at most `limit` of them."""
    entries = condensed(entries)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    precise = not entries or entries[-1].at < _PRECISE_SECONDS
    for entry in shortened(entries, limit):
        if isinstance(entry, Gap):
            grid.add_row("⋯", Text(f"{entry.entries:,} more", style="dim"))
            continue
        line = Text.assemble(("● ", _STYLES.get(entry.kind, "dim")))
        if entry.place:
            line.append(f"{entry.place}  ", style="bold")
        line.append(entry.text, style=_STYLES[entry.kind] if entry.kind == "violation" else "")
        grid.add_row(Text(f" {clock_time(entry.at, precise)}"), line)
    return grid


def as_text(entries: Sequence[Entry]) -> str:
    """All entries, a line each: virtual seconds, kind, hosts, what happened."""
    lines = [
        f"{entry.at:14.6f}  {entry.kind:<10}  {', '.join(entry.nodes) or '-'}  {entry.text}\n"
        for entry in entries
    ]
    return "".join(lines)


def _natural(name: str) -> list[tuple[int, str]]:
    """pi-2 before pi-10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def clock_time(seconds: float, precise: bool = False) -> str:
    """`1:02:45`; precise: `0:07.3`."""
    if not precise:
        return figures.duration(seconds)
    minutes, rest = divmod(max(0.0, round(seconds, 1)), 60)
    return f"{int(minutes)}:{rest:04.1f}"
