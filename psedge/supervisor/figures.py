"""A run's totals, from what its shards report and what was put on record before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psedge.protocol.shards import ShardReport
from psedge.supervisor.run_rows import ProgressRow


@dataclass(frozen=True, slots=True)
class Figures:
    """Every push goes to all shards, so one shard counts them all; the largest count is the newest.

    contributors: workers in the latest update, of the shard where there were fewest.
    """

    samples_seen: int = 0
    samples_applied: int = 0
    pushes_applied: int = 0
    pushes_refused: int = 0
    staleness_max: int = 0
    lag_max: int = 0
    bytes_pushed: int = 0
    bytes_pulled: int = 0
    contributors: int = 0


def figures_of(
    reports: Sequence[ShardReport], moved: tuple[int, int], least: Figures = Figures()
) -> Figures:
    """reports: the latest of each shard. moved: bytes pushed and pulled.

    least: known to have been reached, before those who can say so were heard.
    """
    return Figures(
        samples_seen=max([least.samples_seen, *(each.samples_seen for each in reports)]),
        samples_applied=max([least.samples_applied, *(each.samples_applied for each in reports)]),
        pushes_applied=max([least.pushes_applied, *(each.pushes_applied for each in reports)]),
        pushes_refused=max([least.pushes_refused, *(each.pushes_refused for each in reports)]),
        staleness_max=max([least.staleness_max, *(each.staleness_max for each in reports)]),
        lag_max=max([least.lag_max, *(each.lag_max for each in reports)]),
        bytes_pushed=max(least.bytes_pushed, moved[0]),
        bytes_pulled=max(least.bytes_pulled, moved[1]),
        contributors=min((each.contributors for each in reports), default=0),
    )


def recorded_figures(row: ProgressRow) -> Figures:
    """The totals as a row of the record has them."""
    return Figures(
        samples_seen=row.samples,
        samples_applied=row.samples_applied,
        pushes_applied=row.pushes_applied,
        pushes_refused=row.pushes_refused,
        staleness_max=row.staleness_max,
        lag_max=row.lag_max,
        bytes_pushed=row.bytes_pushed,
        bytes_pulled=row.bytes_pulled,
    )
