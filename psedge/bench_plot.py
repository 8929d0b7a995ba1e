"""The figures of `psedge bench codecs` as a picture: which codec is fastest on which link."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from psedge.bench_measure import Row
from psedge.bench_table import link_speed, short_time, shown
from psedge.terminal import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE_INCHES, _DPI = (9.0, 5.8), 150
_INK, _QUIET, _FAINT = "#25282c", "#6b7280", "#d9dde2"
_COLOURS = {
    "identity": _INK,
    "float16": "#868e96",
    "bfloat16": "#adb5bd",
    "q8": "#1971c2",
    "q4": "#0c8599",
    "ternary": "#2f9e44",
    "sign": "#74b816",
    "ecsq": "#e8590c",
    "top-k": "#c2255c",
    "adacomp": "#7048e8",
    "power-sgd": "#a87132",
}
_OTHER_COLOUR = "#495057"
#: Links of the picture, in megabits per second.
_LINKS = (1.0, 10_000.0)
_LINK_TICKS = (1, 5, 20, 100, 1000, 10_000)
#: Labels keep this distance, as a part of the picture's height.
_LABEL_GAP = 0.047


@dataclass(frozen=True, slots=True)
class Line:
    """One codec. ways: by lossless stage, bits of a push and its seconds beside the transfer."""

    codec: str
    ways: dict[str, tuple[float, float]]

    def milliseconds(self, megabits_per_second: float) -> float:
        """With the stage that is best on that link, as `lossless = "auto"` has it."""
        return self._best(megabits_per_second)[0]

    @property
    def label(self) -> str:
        """As it is on the slowest link."""
        _, stage = self._best(_LINKS[0])
        return self.codec if stage == "none" else f"{self.codec} + {stage}"

    def _best(self, megabits_per_second: float) -> tuple[float, str]:
        return min(
            (1e3 * (bits / (1e6 * megabits_per_second) + seconds), stage)
            for stage, (bits, seconds) in self.ways.items()
        )


def picture(rows: Sequence[Row], title: str, step_seconds: float) -> bytes:
    """A PNG: the time of a push over the speed of the link, one line a codec, both logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = lines(rows)
    figure = Figure(figsize=_SIZE_INCHES, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.2, 0.105, 0.72, 0.735))
    figure.text(0.02, 0.945, title, fontsize=14, fontweight="bold", color=_INK, parse_math=False)
    figure.text(
        0.02,
        0.9,
        f"Time of one push of {figures.count(rows[0].elements)} parameters: encode, send, decode "
        "and add, with the lossless stage that suits the link",
        fontsize=9.5,
        color=_QUIET,
    )
    links = np.geomspace(*_LINKS, 200)
    for line in drawn:
        times = [line.milliseconds(link) for link in links]
        axes.plot(links, times, color=_colour(line), linewidth=2)
    _draw_scales(axes)
    _draw_step(axes, 1e3 * step_seconds)
    _draw_labels(axes, drawn)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def lines(rows: Sequence[Row]) -> list[Line]:
    """A line for each codec, with every stage that makes it clearly smaller."""
    found: dict[str, Line] = {}
    for group in shown(rows):
        first = group[0]
        nanoseconds = sum(
            row.nanoseconds_per_element
            for row in group
            if row.operation in ("encode", "decode-accumulate")
        )
        line = found.setdefault(first.codec, Line(first.codec, {}))
        line.ways[first.lossless] = (
            first.bits_per_parameter * first.elements,
            1e-9 * nanoseconds * first.elements,
        )
    return list(found.values())


def spread(places: Sequence[float], gap: float, top: float = 1.0) -> list[float]:
    """The places moved apart so that neighbours are `gap` from each other, none above `top`.

    Those that crowd are spaced evenly around their middle; the order stays.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    clusters: list[tuple[float, list[int]]] = []
    for index in order:
        clusters.append((places[index], [index]))
        while len(clusters) > 1 and _crowded(clusters[-2], clusters[-1], gap):
            (left, low), (right, high) = clusters[-2], clusters[-1]
            joined = low + high
            middle = (left * len(low) + right * len(high)) / len(joined)
            clusters[-2:] = [(middle, joined)]
    result = [0.0] * len(places)
    limit = top
    for middle, members in reversed(clusters):
        for rank, index in reversed(list(enumerate(members))):
            result[index] = min(limit, middle + (rank - (len(members) - 1) / 2) * gap)
            limit = result[index] - gap
    return result


def _crowded(low: tuple[float, list[int]], high: tuple[float, list[int]], gap: float) -> bool:
    top = low[0] + (len(low[1]) - 1) / 2 * gap
    bottom = high[0] - (len(high[1]) - 1) / 2 * gap
    return bottom - top < gap


def _colour(line: Line) -> str:
    return _COLOURS.get(line.codec, _OTHER_COLOUR)


def _draw_scales(axes: Axes) -> None:
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*_LINKS)
    axes.xaxis.set_major_locator(FixedLocator(_LINK_TICKS))
    axes.xaxis.set_major_formatter(lambda value, _: _plain(link_speed(value)))
    axes.yaxis.set_major_locator(LogLocator())
    axes.yaxis.set_major_formatter(lambda value, _: short_time(value / 1e3))
    axes.yaxis.tick_right()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.grid(color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel("speed of the link", color=_INK)


def _draw_step(axes: Axes, milliseconds: float) -> None:
    """How long the machine computes: what is far below it does not matter any more."""
    low, high = axes.get_ylim()
    if not low < milliseconds < high:
        return
    axes.axhline(milliseconds, color=_QUIET, linewidth=1, linestyle=(0, (1, 2)))
    axes.annotate(
        f"one training step here, {short_time(milliseconds / 1e3)}",
        (_LINKS[1], milliseconds),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=_QUIET,
    )


def _draw_labels(axes: Axes, drawn: Sequence[Line]) -> None:
    """Each line's name at its left end, in its colour, moved apart where lines crowd."""
    low, high = np.log(axes.get_ylim())
    starts = [(np.log(line.milliseconds(_LINKS[0])) - low) / (high - low) for line in drawn]
    for line, start, place in zip(drawn, starts, spread(starts, _LABEL_GAP), strict=True):
        axes.plot(
            [0, -0.03], [start, place], transform=axes.transAxes, color=_colour(line),
            linewidth=0.8, clip_on=False,
        )  # fmt: skip
        axes.text(
            -0.038, place, line.label, transform=axes.transAxes, ha="right", va="center",
            fontsize=10, color=_colour(line), fontweight="bold",
        )  # fmt: skip


def _plain(text: str) -> str:
    """`5.0 Mb/s` as `5 Mb/s`: ticks stand at round numbers."""
    return text.replace(".0 ", " ")
