"""The lanes of a picture: what each device did over virtual time.

A strip is filled by the shares of a device's states: where a state lasts longer than the picture
can show, it fills the strip; where states change faster than that, their shares stand on top of
each other. The same way a strip shows a whole kind of devices, where there are many.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from psedge.simulation.lanes import STATES, Kind, Lane, Shares, mean_shares, sampled, use_of_time
from psedge.simulation.trace import Event

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Told apart by people who see red and green alike, and in print by their lightness.
COLOURS = {
    "computing": "#2a78d6",
    "transferring": "#f2a900",
    "waiting": "#dfe3e8",
    "away": "#ffffff",
    "dead": "#25282c",
}
FAULT = "#d1495b"
_INK, _QUIET = "#25282c", "#6b7280"
#: With more hosts, a strip is of a whole kind, with some of its hosts below it.
HOSTS_LIMIT = 40
_SAMPLED_HOSTS = 24
_FEW = 4
#: The hosts in what a fault says of where it strikes, such as `server-0 | pi-1`.
_NAMES = re.compile(r"[\w.-]+")
#: Heights in the picture, in strips of a single host.
_KIND_HEIGHT, _GAP, _KIND_GAP = 3.0, 0.16, 0.7
#: A device that changed its state no more often is drawn to the moment, others as averages over
#: some changes each.
_EXACT_CHANGES, _CHANGES_AVERAGED = 400, 12
_LEAST_STRETCHES, _MOST_STRETCHES = 40, 240


@dataclass(frozen=True, slots=True)
class Strip:
    """One strip. bottom, height: in strips of a single host, counted downwards from 0."""

    label: str
    hosts: tuple[str, ...]
    bottom: float
    height: float

    @property
    def is_kind(self) -> bool:
        return self.height > 1


def strips_of(kinds: Sequence[Kind], lanes: Mapping[str, Lane], stop: float) -> list[Strip]:
    """What to draw, from top to bottom: every host, or kinds with some of their hosts."""
    crowded = sum(len(kind.hosts) for kind in kinds) > HOSTS_LIMIT
    large = sum(len(kind.hosts) > _FEW for kind in kinds)
    each = max(2, _SAMPLED_HOSTS // max(1, large))
    result: list[Strip] = []
    bottom = 0.0
    for kind in kinds:
        rows: list[tuple[str, tuple[str, ...], float]]
        rows = [(host, (host,), 1.0) for host in kind.hosts]
        if crowded and len(kind.hosts) > _FEW:
            some = sampled(kind, lanes, each, stop)
            rows = [(host, (host,), 1.0) for host in some]
            rows.insert(0, (kind.label, kind.hosts, _KIND_HEIGHT))
        for label, hosts, height in rows:
            bottom -= height + _GAP
            result.append(Strip(label, hosts, bottom, height))
        bottom -= _KIND_GAP
    return result


def draw_lanes(axes: Axes, strips: Sequence[Strip], lanes: Mapping[str, Lane], stop: float) -> None:
    """Draw the strips from 0 to `stop` virtual seconds."""
    for strip in strips:
        mine = [lanes[host] for host in strip.hosts]
        edges = _edges(mine, stop)
        stacked = np.full(len(edges) - 1, strip.bottom)
        for state, share in zip(STATES, mean_shares(mine, edges), strict=True):
            top = stacked + share * strip.height
            if share.any():
                axes.stairs(
                    top, edges, baseline=stacked, fill=True, color=COLOURS[state], linewidth=0,
                    antialiased=False,
                )  # fmt: skip
            stacked = top
        _name(axes, strip, lanes, stop)
    axes.set_ylim(strips[-1].bottom - _GAP, 0.0)
    axes.set_yticks([])
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def mark_faults(axes: Axes, strips: Sequence[Strip], faults: Sequence[Event]) -> None:
    """A mark where a fault struck, on the strips of its hosts, or on top of all of them."""
    places = {strip.hosts[0]: strip for strip in strips if not strip.is_kind}
    for fault in faults:
        struck = [places[name] for name in _NAMES.findall(fault.node) if name in places]
        for y in [strip.bottom + strip.height / 2 for strip in struck] or [-_GAP]:
            axes.plot(
                [fault.at], [y], marker="X", markersize=7.5, markerfacecolor=FAULT,
                markeredgecolor="white", markeredgewidth=0.8, clip_on=False, zorder=5,
            )  # fmt: skip


def legend(axes: Axes, lanes: Mapping[str, Lane], *, faults: bool) -> None:
    """What the colours mean, above the lanes; only what occurs."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    seen = {state for lane in lanes.values() for _, state in lane} - {"away"}
    handles: list[Patch | Line2D] = [
        Patch(facecolor=COLOURS[state], label=state) for state in STATES if state in seen
    ]
    if faults:
        handles.append(
            Line2D([], [], linestyle="none", marker="X", markersize=7, label="fault",
                   markerfacecolor=FAULT, markeredgecolor="white")
        )  # fmt: skip
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(handles),
        frameon=False, fontsize=9, handlelength=1.1, handleheight=1.0, columnspacing=1.4,
        borderaxespad=0.6, borderpad=0, labelcolor=_INK,
    )  # fmt: skip


def _edges(lanes: Sequence[Lane], stop: float) -> Shares:
    """The moments between which shares are taken for a strip of these lanes."""
    changes = max((len(lane) for lane in lanes), default=0)
    if len(lanes) == 1 and changes <= _EXACT_CHANGES:
        return np.unique(np.array([0.0, stop, *(at for at, _ in lanes[0] if 0 < at < stop)]))
    if len(lanes) > 1:
        return np.linspace(0.0, stop, _MOST_STRETCHES + 1)
    count = min(_MOST_STRETCHES, max(_LEAST_STRETCHES, changes // _CHANGES_AVERAGED))
    edges = np.linspace(0.0, stop, count + 1)
    # What lasts longer than a stretch begins and ends where it did.
    times = np.array([0.0, *(at for at, _ in lanes[0]), stop])
    long = np.flatnonzero(np.diff(times) >= edges[1])
    return np.unique(np.clip(np.concatenate([edges, times[long], times[long + 1]]), 0, stop))


def _name(axes: Axes, strip: Strip, lanes: Mapping[str, Lane], stop: float) -> None:
    """The label on the left, the share of computing on the right."""
    middle = strip.bottom + strip.height / 2
    computing = use_of_time([lanes[host] for host in strip.hosts], 0.0, stop)["computing"]
    size, weight = (9.5, "bold") if strip.is_kind else (8.0, "normal")
    for x, text, align, colour in (
        (-0.008, strip.label.replace(" × ", "\n× "), "right", _INK if strip.is_kind else _QUIET),
        (1.008, f"{100 * computing:.0f} %" if computing else "", "left", COLOURS["computing"]),
    ):
        axes.text(
            x, middle, text, transform=axes.get_yaxis_transform(), ha=align, va="center",
            fontsize=size, fontweight=weight, color=colour, parse_math=False,
        )  # fmt: skip
