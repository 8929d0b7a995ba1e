"""A seed that broke an invariant: how to see it again, and which of its faults matter."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from psedge.export import write_file
from psedge.protocol.errors import PsedgeError
from psedge.simulation.faults.kinds import Fault
from psedge.simulation.faults.plan import FaultPlan, to_toml
from psedge.simulation.faults.shrink import shrink
from psedge.simulation.outcome import Enough, Order, Outcome, Progress, Simulate
from psedge.simulation.progress import real_seconds

#: Runs that shrinking a plan may take: within this time at the pace of the run that failed.
_PATIENCE_SECONDS = 60.0
_FEWEST_TRIES, _MOST_TRIES = 12, 200
#: With fewer faults it may take longer until the invariant breaks, but not for ever.
_LONGER, _GRACE_SECONDS = 2.0, 30.0


@dataclass(frozen=True, slots=True)
class Given:
    """What stood on the command line that an order does not keep.

    folder: where shrunk plans are written; None: nowhere.
    """

    config: Path
    overrides: tuple[str, ...] = ()
    faults: Path | None = None
    until: str | None = None
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """faults: those that are enough for the violation, in as simple a form as was found.

    before: how many there were.
    """

    faults: tuple[Fault, ...]
    before: int


def find_cause(
    order: Order,
    outcome: Outcome,
    simulate: Simulate,
    run_seconds: float,
    notify: Callable[[str], None],
) -> Cause | None:
    """The faults of a violating run that matter; None if it had no faults.

    outcome: of `order`. run_seconds: real ones that it took. Ctrl-C ends the search, and what was
    found so far counts.
    """
    faults = outcome.drawn.faults if outcome.drawn is not None else ()
    if not faults or not outcome.violations:
        return None
    invariant = outcome.violations[0].invariant
    soon = _LONGER * outcome.violations[0].at + _GRACE_SECONDS
    shorter = replace(order, lanes=False, limit_seconds=min(order.limit_seconds, soon))
    asked, started, fewest = 0, real_seconds(), tuple(faults)

    def still_fails(some: Sequence[Fault]) -> bool:
        nonlocal asked, fewest
        asked += 1
        notify(f"looking for the faults that matter: try {asked}, {len(some)} of {len(faults)}")
        if real_seconds() - started > 2 * _PATIENCE_SECONDS:
            return False
        try:
            tried = simulate(replace(shorter, plan=FaultPlan(tuple(some))), _until_it_fails)
        except PsedgeError:
            return False
        if not any(one.invariant == invariant for one in tried.violations):
            return False
        fewest = tuple(some)
        return True

    with contextlib.suppress(KeyboardInterrupt):
        shrink(faults, still_fails, tries=_tries(run_seconds))
    return Cause(fewest, len(faults))


def _tries(run_seconds: float) -> int:
    return min(_MOST_TRIES, max(_FEWEST_TRIES, round(_PATIENCE_SECONDS / max(run_seconds, 1e-3))))


def _until_it_fails(progress: Progress) -> None:
    if progress.violations:
        raise Enough("an invariant broke")


def plan_text(cause: Cause, order: Order, outcome: Outcome) -> str:
    """The shrunk plan as TOML, with what it is above it."""
    first = outcome.violations[0]
    head = (
        f"# {len(cause.faults)} of {cause.before} faults, enough to break invariant "
        f"{first.invariant} of {order.experiment.name} with seed {order.seed}:\n"
        f"# {' '.join(first.text.split())}\n\n"
    )
    return head + to_toml(FaultPlan(cause.faults))


def plan_name(order: Order) -> str:
    """File name of a shrunk plan."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in order.experiment.name)
    return f"{name or 'run'}-seed-{order.seed}-faults.toml"


def replay_command(given: Given, order: Order, faults: Path | None) -> str:
    """The command line that repeats a run, violations included, with this plan of faults."""
    parts = ["psedge", "simulate", str(given.config), "--seed", str(order.seed)]
    parts += ["--faults", str(faults)] if faults is not None else []
    for override in given.overrides:
        parts += ["--set", override]
    parts += ["--work", order.work] if order.work != "synthetic" else []
    parts += ["--data", str(order.data)] if str(order.data) != "data" else []
    parts += ["--until", given.until] if given.until else []
    return shlex.join(parts)


def explain(
    given: Given,
    order: Order,
    outcome: Outcome,
    simulate: Simulate,
    run_seconds: float,
    console: Console,
) -> tuple[Path, Cause, str] | None:
    """Find the faults that matter and write them as a plan: its path, they, how to run it.

    None if there is nothing to leave out or nowhere to write to.
    """
    if given.folder is None:
        return None
    # Drawn when told, not by a thread of its own: threads are barred while a run goes on.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        cause = find_cause(
            order,
            outcome,
            simulate,
            run_seconds,
            lambda text: live.update(Text(f" {text}", style="dim"), refresh=True),
        )
    if cause is None:
        return None
    path = given.folder / plan_name(order)
    write_file(path, plan_text(cause, order, outcome).encode())
    return path, cause, replay_command(given, order, path)
