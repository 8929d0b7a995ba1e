"""`psedge simulate`: reads what is asked for, and sends it to one run or to many."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console

from psedge.config import Experiment
from psedge.protocol.errors import ConfigError
from psedge.simulation.failing import Given
from psedge.simulation.faults.plan import FaultPlan, load_plan
from psedge.simulation.faults.random_plan import default_random
from psedge.simulation.interrupts import on_interrupt
from psedge.simulation.many_runs import ManyRuns
from psedge.simulation.one_run import OneRun
from psedge.simulation.outcome import LIMIT_SECONDS, Order, Prepare, Simulate
from psedge.simulation.placement import hosts_of
from psedge.toml_config import load_config
from psedge.worker.device import use_threads

#: Seeds of one range: more take days, and are a typing mistake.
SEEDS_LIMIT = 10_000_000
#: What `--faults` says for a schedule that is drawn from the seed without a plan.
RANDOM = "random"

_RANGE = re.compile(r"(\d+):(\d+)")
_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|m|min|h|d)?")
_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True)
class SimulateOrder:
    """What the command line asks for; texts as they were typed."""

    config: Path
    overrides: tuple[str, ...] = ()
    seed: int | None = None
    seeds: str | None = None
    faults: Path | None = None
    work: Literal["synthetic", "real"] = "synthetic"
    data: Path = Path("data")
    until: str | None = None
    plot: Path | None = None
    out: Path | None = None
    as_json: bool = False
    checks: bool = True

    @property
    def given(self) -> Given:
        """What a command needs that repeats one of the runs.

        Plans go where the user wants files, or here; a program that reads JSON wants none.
        """
        folder = self.out if self.as_json else self.out or Path()
        return Given(self.config, self.overrides, self.faults, self.until, folder)


def run_simulate(
    asked: SimulateOrder,
    console: Console | None = None,
    prepare: Prepare | None = None,
) -> int:
    """Simulate one seed or a range; 0 if nothing failed and every invariant held.

    prepare: stands in for the real one. Raises UserError for mistakes.
    """
    seeds = _seeds(asked)
    limit = LIMIT_SECONDS if asked.until is None else parse_time(asked.until)
    _check_plot(asked.plot)
    experiment = load_config(asked.config, asked.overrides)
    if experiment.model is None or experiment.data is None:
        raise ConfigError(f"{asked.config}: a simulation needs the sections [model] and [data]")
    order = Order(
        experiment=experiment,
        seed=seeds[0],
        plan=_plan(asked.faults, experiment),
        work=asked.work,
        data=asked.data,
        limit_seconds=limit,
        checkers=asked.checks,
    )
    # Figures alone go to standard output when a program reads it.
    console = console or Console(stderr=asked.as_json)
    # Raised here, so that the terminal and other processes are left in order.
    with on_interrupt(signal.default_int_handler):
        if asked.seeds is not None:
            return ManyRuns(asked, order, seeds, console, prepare or prepared).run()
        return OneRun(asked, order, console, prepare or prepared).run()


def prepared(order: Order, notify: Callable[[str], None]) -> Simulate:
    """Model, gradients and data are the same for all seeds of an order. Raises UserError."""
    from psedge.simulation.run import simulate, work_of

    # Replayed gradients come in small pieces: several threads would wait for each other.
    use_threads(1 if order.work == "synthetic" else order.experiment.worker.threads)
    return partial(simulate, work=work_of(order, notify))


def parse_seeds(text: str) -> range:
    """`0:200` as the seeds 0 to 199. Raises ConfigError with what is wrong."""
    found = _RANGE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"--seeds {text}: expected A:B, two whole numbers such as 0:200")
    first, end = int(found[1]), int(found[2])
    if end == first:
        raise ConfigError(
            f"--seeds {text}: no seed lies in it, because the second number is not one of them; "
            f"seed {first} alone is --seed {first}"
        )
    if end < first:
        raise ConfigError(f"--seeds {text}: begins after its end; did you mean {end}:{first}?")
    if end - first > SEEDS_LIMIT:
        raise ConfigError(
            f"--seeds {text}: {end - first:,} seeds are more than the {SEEDS_LIMIT:,} that one "
            "command takes"
        )
    return range(first, end)


def parse_time(text: str) -> float:
    """`90`, `90s`, `15m`, `2h`, `1d` in seconds. Raises ConfigError."""
    found = _TIME.fullmatch(text.strip().lower())
    seconds = float(found[1]) * _UNITS[found[2] or "s"] if found is not None else 0.0
    if seconds <= 0:
        raise ConfigError(
            f"--until {text}: expected a virtual time above 0, such as 90s, 15m, 2h or 1d"
        )
    return seconds


def _seeds(asked: SimulateOrder) -> range:
    if asked.seeds is None:
        return range(asked.seed or 0, (asked.seed or 0) + 1)
    seeds = parse_seeds(asked.seeds)
    if asked.seed is not None:
        raise ConfigError(f"--seed {asked.seed} and --seeds {asked.seeds}: say one of them")
    if asked.plot is not None:
        raise ConfigError(
            f"--plot draws one run, and --seeds {asked.seeds} asks for {len(seeds):,}: name one "
            "with --seed"
        )
    return seeds


def _check_plot(plot: Path | None) -> None:
    """Before minutes are spent on what could then not be written."""
    if plot is None:
        return
    if plot.suffix.lower() != ".png":
        raise ConfigError(f"--plot {plot}: the picture is a PNG, so its name must end in .png")
    if not plot.absolute().parent.is_dir():
        raise ConfigError(f"--plot {plot}: there is no folder {plot.parent}")


def _plan(path: Path | None, experiment: Experiment) -> FaultPlan | None:
    """The fault plan for the hosts of this experiment. Raises ConfigError."""
    if path is None:
        return None
    hosts = hosts_of(experiment.cluster)
    if path == Path(RANDOM) and not path.exists():
        return FaultPlan(random=default_random(hosts))
    return load_plan(path, hosts)
