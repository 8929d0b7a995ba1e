"""The table of workers in the picture of a run: which columns fit, and what is in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

from psedge.protocol.status import Status, WorkerStatus
from psedge.terminal import figures

STATE_STYLE = {
    "alive": "green",
    "suspect": "yellow",
    "idle": "yellow",
    "spare": "yellow",
    "left": "bright_black",
    "dead": "bold red",
}
_BAR_WIDTH = 10
_STATE_WIDTH = 7
_GAP = 2
_NAME_MINIMUM, _NAME_LIMIT = 12, 30
_DEVICE_MINIMUM, _DEVICE_LIMIT = 14, 32


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of figures. from_width: the terminal width it needs to be shown."""

    heading: str
    width: int
    cell: Callable[[WorkerStatus, float], Text | str]
    total: Callable[[Status], str]
    from_width: int = 0
    justify: Literal["left", "right"] = "right"


def _here(worker: WorkerStatus) -> bool:
    return worker.state in ("alive", "idle")


def _state(worker: WorkerStatus) -> str:
    return "suspect" if worker.suspect and _here(worker) else worker.state


def _bar(worker: WorkerStatus, fastest: float) -> Text:
    """The worker's pace next to that of the fastest."""
    if not _here(worker) or fastest <= 0 or worker.rate_samples_per_second <= 0:
        return Text("")
    length = max(1, round(_BAR_WIDTH * worker.rate_samples_per_second / fastest))
    return Text("━" * length, style="cyan")


_COLUMNS = (
    _Column(
        "samples/s",
        9,
        lambda w, _: figures.count(w.rate_samples_per_second) if _here(w) else "–",
        lambda s: figures.count(s.rate_samples_per_second),
    ),
    _Column("", _BAR_WIDTH, _bar, lambda _: "", from_width=96, justify="left"),
    _Column(
        "steps",
        7,
        lambda w, _: figures.count(w.steps),
        lambda s: figures.count(sum(worker.steps for worker in s.workers)),
        from_width=96,
    ),
    _Column("loss", 6, lambda w, _: figures.loss(w.loss), lambda s: figures.loss(s.train_loss)),
    _Column(
        "staleness",
        9,
        lambda w, _: str(w.staleness) if _here(w) else "–",
        lambda s: f"{s.staleness_max} max",
    ),
    _Column(
        "pushed",
        8,
        lambda w, _: figures.data_size(w.bytes_pushed),
        lambda s: figures.data_size(s.bytes_pushed),
    ),
    _Column(
        "pulled",
        8,
        lambda w, _: figures.data_size(w.bytes_pulled),
        lambda s: figures.data_size(s.bytes_pulled),
    ),
)
_REFUSED = _Column(
    "refused",
    7,
    lambda w, _: Text(figures.count(w.pushes_refused), style="yellow" if w.pushes_refused else ""),
    lambda s: figures.count(s.pushes_refused),
)


_CODECS = _Column(
    "push / pull",
    19,
    lambda w, _: w.coding or "–",
    lambda s: "",
    from_width=132,
    justify="left",
)


def codecs_line(status: Status, width: int) -> Text | None:
    """What pushes and pulls travel as, where the table has no room for it; None: nothing to say."""
    live = Counter(worker.coding for worker in status.workers if _here(worker) and worker.coding)
    if not live or width >= _CODECS.from_width:
        return None
    ranked = live.most_common()
    text = ranked[0][0]
    if len(ranked) > 1:
        text = " · ".join(f"{coding} ({figures.plural(n, 'worker')})" for coding, n in ranked)
    return Text(f" codecs, push / pull: {text}", style="dim", no_wrap=True, overflow="ellipsis")


def worker_table(status: Status, width: int, rows: int | None = None) -> Table:
    """The workers of a run, one a row, and their sum; fits into `width` columns.

    rows: the most workers listed; the others are counted in one row. None lists all.
    """
    columns = [column for column in _COLUMNS if width >= column.from_width]
    if status.pushes_refused or any(worker.pushes_refused for worker in status.workers):
        columns.append(_REFUSED)
    if width >= _CODECS.from_width and any(worker.coding for worker in status.workers):
        columns.append(_CODECS)
    shown = status.workers if rows is None else status.workers[: max(1, rows)]
    hidden = len(status.workers) - len(shown)
    more = f" and {hidden:,} more" if hidden else ""
    name_width, device_width = _text_widths(shown, columns, width, len(more))
    table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(" worker", no_wrap=True, overflow="ellipsis", width=name_width)
    table.add_column("state", no_wrap=True, width=_STATE_WIDTH)
    if device_width:
        table.add_column("device", no_wrap=True, overflow="ellipsis", width=device_width)
    for column in columns:
        table.add_column(column.heading, justify=column.justify, no_wrap=True, width=column.width)
    fastest = max((worker.rate_samples_per_second for worker in shown), default=0.0)
    for worker in shown:
        table.add_row(*_row(worker, columns, fastest, bool(device_width)))
    if more:
        table.add_row(Text(more, style="dim"))
    texts = [" all", "", ""] if device_width else [" all", ""]
    table.add_row(*texts, *(column.total(status) for column in columns), style="dim")
    return table


def _row(
    worker: WorkerStatus, columns: list[_Column], fastest: float, device: bool
) -> list[Text | str]:
    style = "" if _here(worker) else "dim"
    cells: list[Text | str] = [
        Text.assemble((" ● ", STATE_STYLE[_state(worker)]), (worker.name, style)),
        Text(_state(worker), style=STATE_STYLE[_state(worker)]),
    ]
    if device:
        cells.append(Text(worker.device, style="dim"))
    for column in columns:
        cell = column.cell(worker, fastest)
        cells.append(Text(cell, style=style) if isinstance(cell, str) else cell)
    return cells


def _text_widths(
    workers: tuple[WorkerStatus, ...], columns: list[_Column], width: int, name_least: int
) -> tuple[int, int]:
    """Widths of the name and of the device, which share what the figures leave; 0: not shown.

    name_least: columns that the first column needs for other things than names.
    """
    spare = width - _STATE_WIDTH - _GAP - sum(column.width + _GAP for column in columns)
    longest = max((len(worker.name) for worker in workers), default=0) + 3
    wanted = max(name_least, len(" worker"), min(_NAME_LIMIT, longest))
    if spare - _GAP - _GAP < _NAME_MINIMUM + _DEVICE_MINIMUM:
        return min(wanted, max(_NAME_MINIMUM, spare - _GAP)), 0
    name = min(wanted, spare - 2 * _GAP - _DEVICE_MINIMUM)
    longest_device = max((len(worker.device) for worker in workers), default=0)
    return name, min(longest_device, _DEVICE_LIMIT, spare - 2 * _GAP - name)
