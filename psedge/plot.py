"""The learning curve of a run as a picture: what it learned, over epochs and hours."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psedge.export import write_file
from psedge.protocol.errors import ConfigError
from psedge.supervisor.run_rows import (
    METRICS_FILE,
    EvaluationRow,
    NoteRow,
    ProgressRow,
    Row,
    rows_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOT_FILE = "learning-curve.png"

#: Rows that stand somewhere on the horizontal axis.
Placed = ProgressRow | EvaluationRow

_WIDTH_INCHES, _PANEL_INCHES, _DPI = 9.0, 2.9, 150
_TRAIN, _TEST, _INK, _FAINT = "#2a78d6", "#e8590c", "#25282c", "#d9dde2"
#: A loss that spans more than this factor is drawn on a logarithmic axis.
_LOG_SPAN = 20.0
#: The smoothed training loss averages over this part of the rows.
_SMOOTHING = 0.03


@dataclass(frozen=True, slots=True)
class Curve:
    """Points (x, y) in the order of x."""

    label: str
    x: list[float]
    y: list[float]


def plot_run(folder: str | Path) -> Path:
    """Draw a run folder's `metrics.jsonl` into its `learning-curve.png`; returns that path.

    Raises ConfigError when there is nothing to draw yet.
    """
    folder = Path(folder)
    try:
        content = (folder / METRICS_FILE).read_bytes()
    except OSError as error:
        raise ConfigError(f"no figures in {folder}: {error.strerror or error}") from None
    output = folder / PLOT_FILE
    write_file(output, learning_curve(list(rows_of(content)), folder.resolve().name))
    return output


def learning_curve(rows: Sequence[Row], title: str) -> bytes:
    """A PNG of the losses and, where there are any, the metrics on test data.

    The horizontal axis counts epochs, or samples where workers bring loops of their own.
    Raises ConfigError when no row has a loss or a measurement.
    """
    by_epoch = any(row.epoch > 0 for row in rows if not isinstance(row, NoteRow))
    losses, metrics = curves(rows, lambda row: row.epoch if by_epoch else float(row.samples))
    if not losses and not metrics:
        raise ConfigError(f"{title} has no loss and no measurement yet: let it train longer")
    figure, axes = _canvas(1 + bool(metrics), title, _subtitle(rows))
    if metrics:
        draw_metrics(axes[0], metrics)
    if losses:
        draw_losses(axes[-1], losses)
    axes[-1].set_xlabel("epochs" if by_epoch else "samples", color=_INK)
    axes[-1].set_xlim(left=0)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def curves(rows: Sequence[Row], at: Callable[[Placed], float]) -> tuple[list[Curve], list[Curve]]:
    """Losses and metrics of the rows; `at` says where on the horizontal axis a row stands."""
    progress = [row for row in rows if isinstance(row, ProgressRow)]
    measured = [row for row in rows if isinstance(row, EvaluationRow)]
    losses = [
        _curve("training", [(at(row), row.train_loss) for row in progress]),
        _curve(
            "test",
            [(at(row), row.evaluation.loss) for row in measured if row.evaluation.loss is not None],
        ),
    ]
    metrics = [_curve("accuracy", [(at(row), row.evaluation.accuracy) for row in measured])]
    names = dict.fromkeys(name for row in measured for name in row.evaluation.metrics)
    names.pop("accuracy", None)
    metrics += [
        _curve(name, [(at(row), row.evaluation.metrics.get(name)) for row in measured])
        for name in names
    ]
    return [c for c in losses if c.x], [c for c in metrics if c.x]


def _curve(label: str, points: Sequence[tuple[float, float | None]]) -> Curve:
    known = sorted((x, y) for x, y in points if y is not None and math.isfinite(y))
    return Curve(label, [x for x, _ in known], [y for _, y in known])


def _subtitle(rows: Sequence[Row]) -> str:
    progress = [row for row in rows if isinstance(row, ProgressRow)]
    if not progress:
        return ""
    last = progress[-1]
    minutes, seconds = divmod(round(last.seconds), 60)
    duration = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    workers = max(row.workers for row in progress)
    return (
        f"{last.samples:,} samples in {duration}, "
        f"{workers} worker{'s' if workers != 1 else ''}, "
        f"largest staleness {last.staleness_max}, largest lag {last.lag_max}"
    )


def _canvas(panels: int, title: str, subtitle: str) -> tuple[Figure, list[Axes]]:
    """A figure of its own, so that no window system and no other plot is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(
        figsize=(_WIDTH_INCHES, _PANEL_INCHES * panels + 0.9),
        layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08),
        facecolor="white",
    )
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
    heading = axes[0]
    heading.set_title(
        title, loc="left", fontsize=14, fontweight="bold", color=_INK, pad=26, parse_math=False
    )
    heading.text(0, 1.035, subtitle, transform=heading.transAxes, fontsize=9, color="#6b7280")
    for panel in axes:
        dress(panel)
    return figure, axes


def dress(panel: Axes) -> None:
    """Take away what is no data: lines of a grid remain, faint."""
    panel.grid(axis="y", color=_FAINT, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=_INK, labelsize=9, length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(_FAINT)


def draw_metrics(panel: Axes, metrics: Sequence[Curve]) -> None:
    """Accuracy in percent with its best value named; further metrics beside it."""
    colours = (_TEST, "#2f9e44", "#7048e8", "#c2255c", "#0c8599")
    is_accuracy = all(curve.label == "accuracy" for curve in metrics)
    for index, curve in enumerate(metrics):
        y = [100 * value for value in curve.y] if is_accuracy else curve.y
        # A dollar sign would begin a formula.
        label = curve.label.replace("$", r"\$")
        panel.plot(
            curve.x, y, color=colours[index % len(colours)], linewidth=2, label=label,
            marker="o", markersize=4 if len(y) <= 60 else 0,
        )  # fmt: skip
    if is_accuracy:
        _name_best(panel, metrics[0])
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    else:
        panel.legend(frameon=False, fontsize=9)
    panel.set_ylabel("test accuracy" if is_accuracy else "test metrics", color=_INK)


def _name_best(panel: Axes, accuracy: Curve) -> None:
    value, x = max(zip(accuracy.y, accuracy.x, strict=True))
    panel.axhline(100 * value, color=_TEST, linewidth=0.8, linestyle=(0, (4, 4)), alpha=0.6)
    panel.plot([x], [100 * value], marker="o", markersize=8, color=_TEST)
    panel.annotate(
        f"best {100 * value:.2f} %", (x, 100 * value), xytext=(-6, -16), ha="right",
        textcoords="offset points", color=_TEST, fontsize=10, fontweight="bold",
    )  # fmt: skip
    panel.margins(y=0.12)


def draw_losses(panel: Axes, losses: Sequence[Curve]) -> None:
    """Training loss smoothed over its own shadow, test loss with its measurements."""
    for curve in losses:
        if curve.label == "training":
            smooth = _smoothed(curve.y)
            if len(curve.y) > 20:
                panel.plot(curve.x, curve.y, color=_TRAIN, linewidth=0.8, alpha=0.3)
            panel.plot(curve.x, smooth, color=_TRAIN, linewidth=2, label="training")
        else:
            panel.plot(
                curve.x, curve.y, color=_TEST, linewidth=2, label="test",
                marker="o", markersize=4 if len(curve.y) <= 60 else 0,
            )  # fmt: skip
    values = [value for curve in losses for value in curve.y]
    if min(values) > 0 and max(values) / min(values) > _LOG_SPAN:
        _use_log_axis(panel)
    panel.set_ylabel("loss", color=_INK)
    panel.legend(frameon=False, fontsize=9, loc="upper right")


def _use_log_axis(panel: Axes) -> None:
    """Plain numbers at 1, 2 and 5 of each decade instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator

    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _smoothed(values: Sequence[float]) -> list[float]:
    """Mean over a window around each value that shrinks towards both ends."""
    reach = round(len(values) * _SMOOTHING)
    result = []
    for index in range(len(values)):
        near = min(reach, index, len(values) - 1 - index)
        window = values[index - near : index + near + 1]
        result.append(sum(window) / len(window))
    return result
