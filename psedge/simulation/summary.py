"""The last page of `psedge simulate`: what happened, what the devices did, what the run came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from psedge.simulation.lanes import Kind, kinds_of, use_of_time
from psedge.simulation.outcome import Outcome, Recovery
from psedge.simulation.progress import faster
from psedge.simulation.report import seconds_to_accuracy
from psedge.simulation.strips import strips
from psedge.simulation.timeline import clock_time, entries_of, timeline
from psedge.terminal import figures
from psedge.terminal.summary import result_rows

_VERDICT_STYLE = {
    "finished": "bold green",
    "stopped": "bold yellow",
    "cut": "bold yellow",
    "failed": "bold red",
}
_TIMELINE_ENTRIES = 22
_VIOLATIONS_SHOWN = 6
_STEPS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Page:
    """An outcome as a rich renderable that fits itself into the width it is given.

    facts: of `report.figures_of`. real_seconds: how long the simulation took. files: what was
    written, each with a label. replay: commands that repeat a violation, each with a label.
    """

    title: str
    outcome: Outcome
    facts: dict[str, Any]
    checked: bool
    real_seconds: float
    files: Sequence[tuple[str, str]] = ()
    replay: Sequence[tuple[str, str]] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        outcome = self.outcome
        entries = entries_of(outcome.told(), outcome.violations)
        if entries:
            yield Text()
            yield timeline(entries, _TIMELINE_ENTRIES)
        kinds = kinds_of(outcome.lanes, outcome.profiles, outcome.servers)
        if kinds:
            yield Text()
            yield strips(kinds, outcome.lanes, outcome.virtual_seconds, options.max_width)
        yield Text()
        yield self._title()
        if outcome.reason:
            yield Text(f" {outcome.reason}", style=_VERDICT_STYLE.get(outcome.phase, ""))
        yield Text()
        yield Padding(self._table(kinds), (0, 1))

    def _title(self) -> Text:
        outcome = self.outcome
        title = Text.assemble((f" {self.title}", "bold"), f"  seed {outcome.seed}  ")
        title.append(outcome.phase, style=_VERDICT_STYLE.get(outcome.phase, "bold"))
        title.append(f" after {clock_time(outcome.virtual_seconds)} of virtual time")
        if self.real_seconds > 0:
            speed = faster(outcome.virtual_seconds / self.real_seconds)
            took = figures.duration(self.real_seconds)
            title.append(f", simulated in {took} ({speed})", style="dim")
        return title

    def _table(self, kinds: Sequence[Kind]) -> Table:
        table = Table.grid(padding=(0, 3, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for label, value in result_rows(self.facts):
            table.add_row(label, value)
        for label, text in self._simulation_rows(kinds):
            table.add_row(label, text)
        if self.files or self.replay:
            table.add_row("", "")
        for label, text in self.files:
            table.add_row(label, text)
        for label, command in self.replay:
            table.add_row(label, Text(command, style="cyan"))
        return table

    def _simulation_rows(self, kinds: Sequence[Kind]) -> list[tuple[str, RenderableType]]:
        outcome = self.outcome
        rows: list[tuple[str, RenderableType]] = []
        if self.facts["wire_bytes"]:
            size = figures.data_size(self.facts["wire_bytes"])
            rows.append(("on the wire", f"{size}, with headers and what was sent again"))
        steps = list(seconds_to_accuracy(outcome.rows))[-_STEPS_SHOWN:]
        if steps:
            told = [f"{100 * accuracy:.0f} % at {clock_time(at)}" for accuracy, at in steps]
            rows.append(("accuracy reached", ", ".join(told)))
        for index, kind in enumerate(kinds):
            label = "use of time" if index == 0 else ""
            rows.append((label, f"{kind.label}: {_use(kind, outcome)}"))
        if outcome.faults:
            rows.append(("faults", f"{len(outcome.faults):,}{_recoveries(outcome.recoveries)}"))
        rows.append(("invariants", self._verdict()))
        return rows

    def _verdict(self) -> Text:
        violations = self.outcome.violations
        if not self.checked:
            return Text("not checked", style="yellow")
        if not violations:
            return Text("all held", style="bold green")
        text = Text(
            f"{figures.plural(len(violations), 'violation')}, by invariant", style="bold red"
        )
        for one in violations[:_VIOLATIONS_SHOWN]:
            text.append(
                f"\n{one.invariant} at {clock_time(one.at, precise=True)}, {one.node}: {one.text}",
                style="not bold red",
            )
        more = len(violations) - _VIOLATIONS_SHOWN
        if more > 0:
            text.append(f"\nand {more:,} more", style="not bold dim")
        return text


def _use(kind: Kind, outcome: Outcome) -> str:
    lanes = [outcome.lanes[host] for host in kind.hosts]
    used = use_of_time(lanes, 0.0, outcome.virtual_seconds)
    told = [f"{state} {figures.percent(share)}" for state, share in used.items() if share >= 5e-4]
    return ", ".join(told) or "nothing yet"


def _recoveries(recoveries: Sequence[Recovery]) -> str:
    took = sorted(one.seconds for one in recoveries if one.seconds is not None)
    missing = len(recoveries) - len(took)
    never = f"; {missing:,} not recovered from by the end" if missing else ""
    if not took:
        return never
    if len(took) == 1:
        return f"; training went on after {took[0]:.1f} s{never}"
    middle = took[len(took) // 2]
    return f"; training went on after {middle:.1f} s (median), {took[-1]:.1f} s at most{never}"
