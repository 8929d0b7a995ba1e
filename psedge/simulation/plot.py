"""A simulated run as a picture: what every device did, how fast it went, what was learned."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from psedge.plot import curves, draw_losses, draw_metrics, dress
from psedge.protocol.errors import ConfigError
from psedge.simulation.lane_plot import COLOURS, FAULT, draw_lanes, legend, mark_faults, strips_of
from psedge.simulation.lanes import kinds_of
from psedge.simulation.outcome import Outcome
from psedge.simulation.timeline import clock_time
from psedge.simulation.trace import Event
from psedge.supervisor.run_rows import ProgressRow, Row
from psedge.terminal import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_INCHES, _DPI = 10.0, 150
_INK, _QUIET, _FAINT = "#25282c", "#6b7280", "#d9dde2"
_LEFT_INCHES, _RIGHT_INCHES, _TOP_INCHES, _BOTTOM_INCHES = 1.75, 0.85, 1.2, 0.6
_STRIP_INCHES, _LANES_LEAST_INCHES, _LANES_MOST_INCHES = 0.22, 1.2, 7.0
_PANEL_INCHES, _RATE_INCHES, _SPACE_INCHES = 1.75, 1.05, 0.42
#: Dotted lines through the panels below help only while they are few.
_FAULT_LINES = 12
_RATE_POINTS = 120
_UNITS = ((180.0, 1.0, "seconds"), (3 * 3600.0, 60.0, "minutes"), (4 * 86_400.0, 3600.0, "hours"))


def picture(outcome: Outcome, title: str) -> bytes:
    """A PNG: device lanes over virtual time, below them samples/s, loss and accuracy.

    Raises ConfigError when the run ended before there was anything to draw.
    """
    stop = outcome.virtual_seconds
    kinds = kinds_of(outcome.lanes, outcome.profiles, outcome.servers)
    strips = strips_of(kinds, outcome.lanes, stop)
    if not strips or stop <= 0:
        raise ConfigError(f"{title} ended before any device did anything: nothing to draw")
    losses, metrics = curves(outcome.rows, lambda row: row.timestamp)
    # Gradients that are only replayed come with a loss of 0.
    losses = [loss for loss in losses if any(loss.y)]
    rate = _rate(outcome.rows, stop)
    lanes_inches = min(
        _LANES_MOST_INCHES, max(_LANES_LEAST_INCHES, -strips[-1].bottom * _STRIP_INCHES)
    )
    heights = [lanes_inches]
    heights += [_RATE_INCHES] if rate is not None else []
    heights += [_PANEL_INCHES] * (bool(losses) + bool(metrics))
    figure, panels = _canvas(heights, title, _subtitle(outcome))
    faults = [event for event in outcome.told() if event.kind == "fault"]
    draw_lanes(panels[0], strips, outcome.lanes, stop)
    mark_faults(panels[0], strips, faults)
    legend(panels[0], outcome.lanes, faults=bool(faults))
    below = iter(panels[1:])
    if rate is not None:
        _draw_rate(next(below), *rate)
    if losses:
        draw_losses(next(below), losses)
    if metrics:
        draw_metrics(next(below), metrics)
    _share_time(panels, stop)
    if len(faults) <= _FAULT_LINES:
        _draw_fault_lines(panels[1:], [(fault.at, _kind(fault, outcome)) for fault in faults])
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def _subtitle(outcome: Outcome) -> str:
    workers = len([host for host in outcome.profiles if host not in outcome.servers])
    parts = [f"{clock_time(outcome.virtual_seconds)} of virtual time"]
    if workers:
        parts.append(figures.plural(workers, "worker"))
    if outcome.result is not None:
        parts.append(f"{figures.count(outcome.result.samples_per_second)} samples/s")
    parts.append(f"seed {outcome.seed}")
    if outcome.faults:
        parts.append(figures.plural(len(outcome.faults), "fault"))
    if outcome.violations:
        parts.append(figures.plural(len(outcome.violations), "violation"))
    return " · ".join(parts)


def _rate(rows: Sequence[Row], stop: float) -> tuple[list[float], list[float]] | None:
    """Times and samples per virtual second, from the counts of samples; None: there are none."""
    points = sorted(
        (row.timestamp, float(row.samples)) for row in rows if isinstance(row, ProgressRow)
    )
    if len(points) < 2 or points[-1][1] <= 0:
        return None
    # Over stretches of several rows each: between two rows the count rises in jumps.
    least = max(stop / _RATE_POINTS, 2 * (points[-1][0] - points[0][0]) / len(points))
    times, rates = [], []
    start, before = points[0]
    for at, samples in points[1:]:
        if at - start < (least if at < points[-1][0] else least / 2):
            continue
        times.append((start + at) / 2)
        # A run that went on from a checkpoint counts its samples from there.
        rates.append(max(0.0, samples - before) / (at - start))
        start, before = at, samples
    return (times, rates) if times else None


def _canvas(heights: Sequence[float], title: str, subtitle: str) -> tuple[Figure, list[Axes]]:
    """Panels of these heights in inches, one above the other, with a common horizontal axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    total = _TOP_INCHES + _BOTTOM_INCHES + sum(heights) + _SPACE_INCHES * (len(heights) - 1)
    figure = Figure(figsize=(_WIDTH_INCHES, total), facecolor="white")
    FigureCanvasAgg(figure)
    left, right = _LEFT_INCHES / _WIDTH_INCHES, 1 - _RIGHT_INCHES / _WIDTH_INCHES
    figure.text(
        0.018, 1 - 0.38 / total, title, fontsize=14, fontweight="bold", color=_INK,
        parse_math=False,
    )  # fmt: skip
    figure.text(0.018, 1 - 0.64 / total, subtitle, fontsize=9.5, color=_QUIET, parse_math=False)
    panels: list[Axes] = []
    top = total - _TOP_INCHES
    for height in heights:
        place = (left, (top - height) / total, right - left, height / total)
        panels.append(figure.add_axes(place, sharex=panels[0] if panels else None))
        top -= height + _SPACE_INCHES
    for panel in panels[1:]:
        dress(panel)
    panels[0].text(
        1.008, 1.0, "computing", transform=panels[0].transAxes, fontsize=8, va="bottom",
        ha="left", color=COLOURS["computing"],
    )  # fmt: skip
    return figure, panels


def _draw_rate(panel: Axes, times: Sequence[float], rate: Sequence[float]) -> None:
    panel.plot(times, rate, color="#0c8599", linewidth=1.6)
    panel.fill_between(times, rate, color="#0c8599", alpha=0.12, linewidth=0)
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    panel.set_ylabel("samples/s", color=_INK)


def _kind(event: Event, outcome: Outcome) -> str:
    """What kind of fault an event tells of; empty if the plan does not say."""
    for fault in outcome.drawn.faults if outcome.drawn is not None else ():
        if (fault.where, fault.what()) == (event.node, event.text):
            return fault.kind
    return ""


def _draw_fault_lines(panels: Sequence[Axes], faults: Sequence[tuple[float, str]]) -> None:
    """A dotted line through the panels where each fault struck, named in the first one."""
    from matplotlib import patheffects

    halo = [patheffects.withStroke(linewidth=2.5, foreground="white", alpha=0.8)]
    for number, panel in enumerate(panels):
        for at, kind in faults:
            panel.axvline(at, color=FAULT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
            if number == 0:
                panel.annotate(
                    kind, (at, 0.04), xycoords=panel.get_xaxis_transform(), xytext=(2, 0),
                    textcoords="offset points", rotation=90, va="bottom", ha="left",
                    fontsize=7.5, color=FAULT, path_effects=halo,
                )  # fmt: skip


def _share_time(panels: Sequence[Axes], stop: float) -> None:
    """One axis of virtual time for all panels, labelled below the last."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    seconds, unit = next(
        ((size, name) for limit, size, name in _UNITS if stop <= limit), (86_400.0, "days")
    )
    panels[0].set_xlim(0, stop)
    panels[0].xaxis.set_major_locator(MultipleLocator(_tick_step(stop / seconds) * seconds))
    panels[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / seconds:g}"))
    for panel in panels[:-1]:
        panel.tick_params(labelbottom=False, length=0)
    panels[-1].tick_params(colors=_INK, labelsize=9, length=0)
    panels[-1].set_xlabel(f"virtual time, {unit}", color=_INK)
    for panel in panels[1:]:
        panel.yaxis.set_label_coords(-0.075, 0.5)


def _tick_step(span: float) -> float:
    """A round distance that gives five to ten ticks."""
    size: float = 10.0 ** math.floor(math.log10(span / 5))
    return next(size * factor for factor in (1, 2, 5, 10) if span / (size * factor) <= 10)
