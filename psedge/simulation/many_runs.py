"""`psedge simulate --seeds`: a range of seeds on all cores, and what they came to together."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from psedge.config import Experiment
from psedge.export import write_file
from psedge.prepare import built_model
from psedge.protocol.errors import ConfigError
from psedge.run_folder import make_folder
from psedge.simulation.failing import explain, replay_command
from psedge.simulation.model_cost import free_memory_bytes, simulation_bytes
from psedge.simulation.outcome import Order, Prepare, Simulate
from psedge.simulation.progress import faster, real_seconds
from psedge.simulation.sweep import SeedReport, processes_for, sweep
from psedge.simulation.timeline import clock_time
from psedge.terminal import figures

if TYPE_CHECKING:
    from psedge.simulation.command import SimulateOrder

#: Failing seeds whose faults are shrunk, and those that are listed.
_SHRUNK, _LISTED = 3, 20
_FRAME_SECONDS, _LINE_SECONDS = 0.2, 5.0
FIGURES_FILE = "seeds.jsonl"


class ManyRuns:
    """A range of seeds, from the order to the last line on the terminal."""

    def __init__(
        self,
        asked: SimulateOrder,
        order: Order,
        seeds: Sequence[int],
        console: Console,
        prepare: Prepare,
    ) -> None:
        self._asked = asked
        self._order = replace(order, lanes=False)
        self._seeds = seeds
        self._console = console
        self._prepare = prepare
        self._simulate: Simulate | None = None
        self._reports: list[SeedReport] = []
        self._started = real_seconds()

    def run(self) -> int:
        """Simulate all seeds.

        1 if an invariant broke, a run failed or crashed, or Ctrl-C cut it short.
        """
        if self._asked.out is not None:
            make_folder(self._asked.out)
        stopped = False
        try:
            self._watch()
        except KeyboardInterrupt:
            stopped = True
        if self._asked.as_json:
            sys.stdout.write("\n]\n" if self._reports else "[]\n")
        if self._asked.out is not None:
            lines = [msgspec.json.encode(one.figures) + b"\n" for one in self._reports]
            write_file(self._asked.out / FIGURES_FILE, b"".join(lines))
        self._conclude(stopped)
        bad = any(report.broken or report.phase == "failed" for report in self._reports)
        return 1 if stopped or bad else 0

    def _watch(self) -> None:
        processes = processes_for(
            len(self._seeds), _bytes_each(self._order.experiment), free_memory_bytes()
        )
        reports = sweep(self._order, self._seeds, processes, self._prepare)
        with _screen(self._console, self._asked.as_json) as screen:
            screen.update(self._bar(), refresh=True)
            drawn_at = self._started
            wait = _FRAME_SECONDS if self._console.is_terminal else _LINE_SECONDS
            for report in reports:
                if report.mistake:
                    raise ConfigError(report.mistake)
                self._take(report)
                if real_seconds() - drawn_at >= wait:
                    drawn_at = real_seconds()
                    screen.update(self._bar(), refresh=True)

    def _take(self, report: SeedReport) -> None:
        self._reports.append(report)
        if self._asked.as_json:
            lead = "[\n" if len(self._reports) == 1 else ",\n"
            known = report.figures or {"seed": report.seed, "phase": report.phase}
            text = msgspec.json.encode({**known, "crash": report.crash} if report.crash else known)
            sys.stdout.write(lead + text.decode())
        if report.broken and sum(one.broken for one in self._reports) <= _LISTED:
            self._console.print(_verdict(report), soft_wrap=True)

    def _bar(self) -> Table:
        done, total = len(self._reports), len(self._seeds)
        passed = max(real_seconds() - self._started, 1e-9)
        broken = sum(report.broken for report in self._reports)
        grid = Table.grid(padding=(0, 1))
        facts = f"{done:,} of {total:,} seeds"
        if done:
            facts += f" · {done / passed:.1f} a second"
            facts += f" · {figures.duration(passed / done * (total - done))} left"
        state = Text(f"{figures.plural(broken, 'seed')} failed", style="bold red")
        if not broken:
            state = Text("all held" if done else "starting", style="green" if done else "dim")
        bar = ProgressBar(total=total, completed=done, width=24, complete_style="cyan")
        grid.add_row(Text(f" {facts}"), bar, state)
        return grid

    def _conclude(self, stopped: bool) -> None:
        table = Table.grid(padding=(0, 3, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for label, text in self._rows():
            table.add_row(label, text)
        broken = [report for report in self._reports if report.broken]
        for report in broken[:_SHRUNK]:
            table.add_row("", "")
            for label, command in self._explain(report, shrinking=not stopped):
                table.add_row(label, command)
        title = f" {self._order.experiment.name}  {figures.plural(len(self._reports), 'seed')}"
        verdict = Text(f"{figures.plural(len(broken), 'seed')} failed", style="bold red")
        if not broken:
            held = "every invariant held" if self._reports else "none was done"
            verdict = Text(held, style="bold green" if self._reports else "yellow")
        heading = Text.assemble((title, "bold"), "  ", verdict)
        if stopped:
            heading.append("  stopped by Ctrl-C", style="bold yellow")
        self._console.print(Text(), heading, Text(), Padding(table, (0, 1)), sep="\n")

    def _rows(self) -> list[tuple[str, str]]:
        reports = self._reports
        if not reports:
            return []
        passed = real_seconds() - self._started
        phases = Counter(report.phase for report in reports)
        virtual = sum(report.virtual_seconds for report in reports)
        rows = [
            ("runs", ", ".join(f"{number:,} {phase}" for phase, number in sorted(phases.items()))),
            ("virtual time", f"{clock_time(virtual)}, {faster(virtual / max(passed, 1e-9))} real"),
            ("faults", figures.count(sum(report.faults for report in reports))),
        ]
        for label, key, form in (
            ("samples/s", "samples_per_second", figures.count),
            ("test accuracy", "test_accuracy", figures.percent),
        ):
            values = [report.figures.get(key) for report in reports]
            known = sorted(value for value in values if value is not None)
            if known:
                low, middle, high = known[0], statistics.median(known), known[-1]
                rows.append((label, f"{form(middle)} (median), {form(low)} to {form(high)}"))
        return rows

    def _explain(self, report: SeedReport, *, shrinking: bool) -> list[tuple[str, Text]]:
        """How to see a failing seed again, and with how few faults."""
        given, order = self._asked.given, replace(self._order, seed=report.seed)
        again = replay_command(given, order, given.faults)
        rows = [(f"seed {report.seed}", Text(again, style="cyan"))]
        if not shrinking or not report.violations or given.folder is None:
            return rows
        simulate = self._simulate or self._prepare(order, lambda text: None)
        self._simulate = simulate
        started = real_seconds()
        outcome = simulate(order)
        took = real_seconds() - started
        found = explain(given, order, outcome, simulate, took, self._console)
        if found is not None:
            _, cause, command = found
            label = f"{len(cause.faults)} of {cause.before} faults"
            rows.append((label, Text(command, style="cyan")))
        return rows


def _bytes_each(experiment: Experiment) -> int:
    """Memory that one process takes."""
    parameters = sum(parameter.numel() for parameter in built_model(experiment).parameters())
    return simulation_bytes(experiment, parameters)


def _verdict(report: SeedReport) -> Text:
    text = Text.assemble((f" seed {report.seed}: ", "bold red"))
    if report.crash:
        return text.append(f"crashed: {report.crash.strip().splitlines()[-1]}")
    first = report.violations[0]
    text.append(f"invariant {first.invariant} at {clock_time(first.at, precise=True)}")
    text.append(f" on {first.node}: {first.text}")
    more = len(report.violations) - 1
    return text.append(f" (and {more:,} more)", style="dim") if more else text


class _Lines:
    """Instead of a picture drawn in place: a line each time."""

    def __init__(self, console: Console | None) -> None:
        self._console = console

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None: ...

    def update(self, renderable: Table, *, refresh: bool = False) -> None:
        if self._console is not None:
            self._console.print(renderable)


def _screen(console: Console, as_json: bool) -> Live | _Lines:
    if console.is_terminal and not console.is_dumb_terminal:
        return Live(console=console, auto_refresh=False, transient=True)
    return _Lines(None if as_json else console)
