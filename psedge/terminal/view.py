"""What a run looks like on a terminal: one picture of the supervisor's status.

`render` is a pure function of a status and of what was seen before, so that the live view, `psedge
status` and the tests draw the very same thing. How much is shown follows from the width: 80
columns hold what matters, wider terminals add bars, steps and devices.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from psedge.protocol.status import Evaluation, Status
from psedge.terminal import figures
from psedge.terminal.event_lines import decision_note, event_lines
from psedge.terminal.server_lines import server_lines, unbacked_line
from psedge.terminal.worker_table import codecs_line, worker_table

_PHASE_STYLE = {
    "waiting": "bold yellow",
    "training": "bold green",
    "finished": "bold green",
    "stopped": "bold yellow",
    "failed": "bold red",
}
_WINDOW_SECONDS = 15.0
_POINTS_LIMIT = 2000
_NOTES_SHOWN = 4


@dataclass
class History:
    """The curves and the recent pace of a run, gathered from the statuses seen so far."""

    accuracies: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    _evaluation: Evaluation | None = None
    _pace: list[tuple[float, int]] = field(default_factory=list)

    def observe(self, status: Status) -> None:
        """Take one more status into account; statuses come in the order of time."""
        evaluation = status.evaluation
        if evaluation is not None and evaluation != self._evaluation:
            self._evaluation = evaluation
            if evaluation.accuracy is not None:
                self._append(self.accuracies, evaluation.accuracy)
        if self._pace and status.samples == self._pace[-1][1]:
            return
        if status.train_loss is not None:
            self._append(self.losses, status.train_loss)
        self._pace.append((status.seconds, status.samples))
        while self._pace[-1][0] - self._pace[0][0] > _WINDOW_SECONDS and len(self._pace) > 2:
            del self._pace[0]

    def seconds_left(self, status: Status) -> float | None:
        """Time to the last sample at the recent pace; None while that is anybody's guess."""
        if status.phase != "training" or status.waiting_for or not status.samples_total:
            return None
        if len(self._pace) < 2:
            return None
        (start, before), (end, after) = self._pace[0], self._pace[-1]
        if end <= start or after <= before:
            return None
        rate = (after - before) / (end - start)
        return max(0, status.samples_total - status.samples) / rate

    @staticmethod
    def _append(series: list[float], value: float) -> None:
        series.append(value)
        if len(series) > _POINTS_LIMIT:
            del series[::2]


class RunPicture:
    """A status as a rich renderable that fits itself into the width it is given."""

    def __init__(
        self, status: Status, history: History, rows: int | None = None, events: int = 0
    ) -> None:
        self._status = status
        self._history = history
        self._rows = rows
        self._events = events

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        status = self._status
        yield _header(status, width)
        yield Text()
        yield from _progress(status, self._history, width)
        yield Text()
        yield _curves(status, self._history, width)
        if status.workers:
            yield Text()
            yield worker_table(status, width, self._rows)
            codecs = codecs_line(status, width)
            if codecs is not None:
                yield codecs
        if status.servers:
            yield Text()
            yield server_lines(status, width)
            alone = unbacked_line(status)
            if alone is not None:
                yield alone
        if self._events:
            yield Text()
            yield event_lines(status, self._events)
        told = {decision_note(event) for event in status.journal} if self._events else set()
        notes = tuple(note for note in status.notes if note not in told)
        if notes:
            yield Text()
            yield _notes(notes)


def render(
    status: Status, history: History | None = None, rows: int | None = None, events: int = 0
) -> RunPicture:
    """The picture of a run at this moment.

    rows: the most workers listed; the others are counted in one line. None lists all.
    events: so many of the supervisor's latest decisions with their reasons.
    """
    return RunPicture(status, history or History(), rows, min(events, len(status.journal)))


def plain_line(status: Status, history: History) -> str:
    """The same in one line of text, for logs and pipes."""
    if status.phase == "waiting":
        beginning = _beginning(status)
        return beginning if status.waiting_for else f"waiting: {beginning}"
    if status.waiting_for:
        return f"waiting for {status.waiting_for}"
    parts = [status.phase if status.phase != "training" else f"{figures.duration(status.seconds)}"]
    if status.epochs:
        parts.append(f"epoch {status.epoch}/{status.epochs}")
    if status.samples_total:
        parts.append(f"{100 * status.samples / status.samples_total:.0f} %")
    parts.append(f"{figures.count(status.rate_samples_per_second)} samples/s")
    if status.train_loss is not None:
        parts.append(f"loss {figures.loss(status.train_loss)}")
    if status.evaluation is not None and status.evaluation.accuracy is not None:
        parts.append(f"test accuracy {figures.percent(status.evaluation.accuracy)}")
    parts.append(f"staleness at most {status.staleness_max}")
    sent, received = figures.data_size(status.bytes_pushed), figures.data_size(status.bytes_pulled)
    parts.append(f"pushed {sent}, pulled {received}")
    left = history.seconds_left(status)
    if left is not None:
        parts.append(f"{figures.duration(left)} left")
    return " | ".join(parts)


def _header(status: Status, width: int) -> Table:
    title = Text.assemble((" psedge ", "bold white on blue"), "  ", (status.run, "bold"))
    about = [text for text in (status.model, status.mode) if text]
    right = Text(" · ".join(about), style="dim", no_wrap=True)
    if about:
        right.append(" · ", style="dim")
    right.append(status.phase, style=f"not dim {_PHASE_STYLE[status.phase]}")
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    grid.add_column(justify="right", no_wrap=True, max_width=width * 3 // 5)
    grid.add_row(title, Text.assemble("  ", right, " "))
    return grid


def _beginning(status: Status) -> str:
    """What the start waits for, and where it goes on from."""
    what = status.reason or "servers and workers are starting"
    if status.waiting_for:
        what = f"waiting for {status.waiting_for}"
    if status.samples:
        what += f"; training goes on after {figures.count(status.samples)} samples"
    return what


def _progress(status: Status, history: History, width: int) -> RenderResult:
    if status.phase == "waiting":
        yield _indented(_beginning(status), "yellow")
        return
    if status.waiting_for:
        yield _indented(f"waiting for {status.waiting_for}", "yellow")
    grid = Table.grid(padding=(0, 1))
    label = f" epoch {status.epoch} of {status.epochs}" if status.epochs else " training"
    share = status.samples / status.samples_total if status.samples_total else None
    if share is None:
        grid.add_row(Text(label, style="bold"))
    else:
        bar = ProgressBar(
            total=max(1, status.samples_total),
            completed=min(status.samples, status.samples_total),
            width=max(10, width - len(label) - 8),
            complete_style="cyan",
            finished_style="green",
        )
        grid.add_row(Text(label, style="bold"), bar, Text(f"{100 * min(share, 1):3.0f} %"))
    yield grid
    facts = [f"{figures.count(status.samples)} samples"]
    if status.samples_total:
        facts[0] = f"{figures.count(status.samples)} of {figures.count(status.samples_total)}"
        facts[0] += " samples"
    facts.append(f"{figures.count(status.rate_samples_per_second)} samples/s")
    facts.append(f"{figures.duration(status.seconds)} elapsed")
    left = history.seconds_left(status)
    if left is not None:
        facts.append(f"{figures.duration(left)} left")
    yield Text(" " + " · ".join(facts), style="dim")
    if status.reason:
        yield _indented(status.reason, _PHASE_STYLE[status.phase])


def _indented(text: str, style: str) -> Padding:
    """Over as many lines as it takes, none of which begins in the first column."""
    return Padding(Text(text, style=style), (0, 0, 0, 1))


def _curves(status: Status, history: History, width: int) -> Table:
    room = max(8, min(40, width - 52))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    grid.add_column(justify="right")
    grid.add_column(width=room)
    grid.add_column(style="dim")
    evaluation = status.evaluation
    if evaluation is not None and evaluation.accuracy is not None:
        best = status.best_accuracy
        grid.add_row(
            " test accuracy",
            Text(figures.percent(evaluation.accuracy), style="bold green"),
            Text(figures.sparkline(history.accuracies, room), style="green"),
            f"best {figures.percent(best)}" if best is not None else "",
        )
    elif evaluation is not None:
        grid.add_row(" test loss", Text(figures.loss(evaluation.loss), style="bold green"), "", "")
    else:
        grid.add_row(" test accuracy", "–", "", "not measured yet")
    grid.add_row(
        " train loss",
        Text(figures.loss(status.train_loss), style="bold"),
        Text(figures.sparkline(history.losses, room), style="cyan"),
        f"test loss {figures.loss(evaluation.loss)}" if evaluation is not None else "",
    )
    return grid


def _notes(notes: tuple[str, ...]) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    for note in notes[-_NOTES_SHOWN:]:
        grid.add_row(Text(" !", style="yellow"), Text(note))
    return grid
