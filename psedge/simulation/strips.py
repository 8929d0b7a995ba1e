"""What devices did over virtual time, as strips of coloured blocks on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from psedge.simulation.lanes import STATES, Kind, Lane, Shares, mean_shares, use_of_time
from psedge.simulation.timeline import clock_time
from psedge.terminal import figures

#: Beyond so many hosts a strip is of a whole kind.
HOSTS_LIMIT = 16
_NAME_LIMIT = 28
_STRIP_LIMIT = 100
_BLOCKS = " ▁▂▃▄▅▆▇█"
#: Colours that every terminal has, and that stay apart for those who see red and green alike.
_STYLES = {
    "computing": "blue",
    "transferring": "yellow",
    "waiting": "bright_black",
    "away": "default",
    "dead": "red",
}


def strips(kinds: Sequence[Kind], lanes: Mapping[str, Lane], stop: float, width: int) -> Group:
    """A strip for each host, or for each kind where there are many. stop: virtual seconds.

    The height of a block is the share of computing; its ground has the colour of what else took
    most of the time.
    """
    rows = _rows(kinds)
    names = max((len(name) for name, _ in rows), default=0)
    name_width = min(_NAME_LIMIT, names)
    strip_width = max(10, min(_STRIP_LIMIT, width - name_width - 20))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, overflow="ellipsis", width=name_width + 1)
    grid.add_column(no_wrap=True, width=strip_width)
    grid.add_column(justify="right", no_wrap=True)
    if stop <= 0:
        return Group(grid)
    edges = np.linspace(0.0, stop, strip_width + 1)
    for name, hosts in rows:
        mine = [lanes[host] for host in hosts]
        computing = use_of_time(mine, 0.0, stop)["computing"]
        strip = _strip(mean_shares(mine, edges))
        share = figures.percent(computing) if computing else ""
        grid.add_row(f" {name}", strip, Text(share, style="bold"))
    grid.add_row("", _axis(stop, strip_width), Text("computing", style="dim"))
    return Group(grid, _legend())


def _rows(kinds: Sequence[Kind]) -> list[tuple[str, tuple[str, ...]]]:
    if sum(len(kind.hosts) for kind in kinds) <= HOSTS_LIMIT:
        return [(host, (host,)) for kind in kinds for host in kind.hosts]
    return [(kind.label, kind.hosts) for kind in kinds]


def _strip(shares: Shares) -> Text:
    line = Text()
    for column in shares.T:
        by_state = dict(zip(STATES, column, strict=True))
        computing = by_state.pop("computing")
        rest = max(by_state, key=lambda state: by_state[state])
        if computing + sum(by_state.values()) < 0.5 or (rest == "away" and computing < 0.05):
            line.append(" ")
            continue
        level = round(computing * (len(_BLOCKS) - 1))
        if level == len(_BLOCKS) - 1:
            line.append("█", style=_STYLES["computing"])
        else:
            line.append(_BLOCKS[level], style=f"{_STYLES['computing']} on {_STYLES[rest]}")
    return line


def _axis(stop: float, width: int) -> Text:
    start, end = "0:00", clock_time(stop, precise=stop < 600)
    return Text(start + end.rjust(width - len(start)), style="dim")


def _legend() -> Text:
    line = Text(" ")
    for state in STATES:
        if state != "away":
            line.append("█ ", style=_STYLES[state])
            line.append(f"{state}  ", style="dim")
    return line
