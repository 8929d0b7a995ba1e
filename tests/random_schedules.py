"""Thousands of random runs of the virtual world, each a small cluster and a fault schedule.

    python tests/random_schedules.py 0:10000
    python tests/random_schedules.py --seed 4711 [--faults PLAN.toml]

The first form runs a range of seeds on all cores and ends with exit code 1 if an invariant did not
hold or a run did not come to its end; for each such seed it prints the command that repeats it, and
writes a fault plan shrunk to the faults that matter. The second one repeats a seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulated_schedules import schedule

from psedge.simulation.command import parse_seeds
from psedge.simulation.faults.kinds import Fault
from psedge.simulation.faults.plan import FaultPlan, load_plan, to_toml
from psedge.simulation.faults.shrink import shrink
from psedge.simulation.outcome import Order, Outcome, Progress, Simulate
from psedge.simulation.placement import hosts_of
from psedge.simulation.progress import real_seconds
from psedge.simulation.run import simulate
from psedge.simulation.sweep import SeedReport, processes_for, sweep

#: Runs that may be spent on shrinking one plan.
SHRINK_TRIES = 200


@dataclass(slots=True)
class Tally:
    """What a range of seeds came to."""

    runs: int = 0
    faults: int = 0
    virtual_seconds: float = 0.0
    real_seconds: float = 0.0
    bad: int = 0


def replay(seed: int, faults: Sequence[Fault] | None = None) -> Outcome:
    """The run with this seed, with its own faults or with others."""
    order, work = schedule(seed)
    if faults is not None:
        order = order_with(order, faults)
    return simulate(order, work=work)


def order_with(order: Order, faults: Sequence[Fault]) -> Order:
    return dataclasses.replace(order, plan=FaultPlan(tuple(faults)))


def bad(outcome: Outcome) -> bool:
    """Whether psedge did what it must not do, or did not come to the end of its data."""
    return bool(outcome.violations) or outcome.phase != "finished"


def prepare(order: Order, notify: Callable[[str], None]) -> Simulate:
    """The schedule that belongs to a seed, whatever the order's experiment."""

    def one(order: Order, progress: Callable[[Progress], None] | None = None) -> Outcome:
        return replay(order.seed)

    return one


def reports(seeds: range) -> Iterator[SeedReport]:
    """Of all seeds, in order, from processes on all cores."""
    order, _ = schedule(seeds[0])
    yield from sweep(order, seeds, processes_for(len(seeds)), prepare)


def explain(seed: int, folder: Path) -> None:
    """Say how to repeat a bad seed, and leave a plan with the faults that matter beside it."""
    print(f"  repeat it: python tests/random_schedules.py --seed {seed}")
    first = replay(seed)
    if not bad(first) or first.drawn is None:
        return
    faults = shrink(first.drawn.faults, lambda some: bad(replay(seed, some)), tries=SHRINK_TRIES)
    path = folder / f"schedule-{seed}-faults.toml"
    path.write_text(to_toml(FaultPlan(tuple(faults))), encoding="utf-8")
    print(f"  {len(faults)} of {len(first.drawn.faults)} faults are enough:")
    print(f"  python tests/random_schedules.py --seed {seed} --faults {path}")


def run_range(seeds: range, folder: Path) -> int:
    tally, started = Tally(), real_seconds()
    for report in reports(seeds):
        tally.runs += 1
        tally.faults += report.faults
        tally.virtual_seconds += report.virtual_seconds
        if report.broken or report.phase != "finished":
            tally.bad += 1
            print(
                f"seed {report.seed}: {report.phase}", *report.violations, report.crash, sep="\n  "
            )
            explain(report.seed, folder)
        if tally.runs % 100 == 0:
            print(
                f"{tally.runs:,} runs, {tally.bad} bad, {real_seconds() - started:.0f} s",
                flush=True,
            )
    print(
        f"{tally.runs:,} runs, {tally.faults:,} faults, {tally.virtual_seconds / 3600:.1f} virtual "
        f"hours in {real_seconds() - started:.0f} s: {tally.bad} bad"
    )
    return 1 if tally.bad else 0


def run_one(seed: int, plan: Path | None) -> int:
    faults = None
    if plan is not None:
        hosts = hosts_of(schedule(seed)[0].experiment.cluster)
        faults = load_plan(plan, hosts).faults
    outcome = replay(seed, faults)
    for event in outcome.events:
        print(f"{event.at:9.3f}  {event.node:20}  {event.kind}: {event.text}")
    for violation in outcome.violations:
        print(violation)
    print(f"{outcome.phase} after {outcome.virtual_seconds:.1f} virtual seconds; {outcome.digest}")
    return 1 if bad(outcome) else 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seeds", nargs="?", default="0:10000", help="A:B")
    parser.add_argument("--seed", type=int, help="repeat this one")
    parser.add_argument("--faults", type=Path, help="with these faults instead of its own")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for shrunk fault plans")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return run_one(options.seed, options.faults)
    return run_range(parse_seeds(options.seeds), options.out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
