"""`psedge simulate`: a cluster that is not there, on virtual time."""

from __future__ import annotations

from pathlib import Path

import click

from psedge.commands import options
from psedge.commands.here import import_from_here


@click.command()
@click.argument("config", type=options.FILE)
@options.set_
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    help="Of all that happens by chance; the same seed gives the same run.  [default: 0]",
)
@click.option(
    "--seeds", metavar="A:B", help="Many runs on all cores: seeds A, A+1, ... up to before B."
)
@click.option(
    "--faults",
    type=options.FILE,
    metavar="PLAN",
    help="What goes wrong, as TOML; `random` draws it from the seed.",
)
@click.option(
    "--work",
    type=click.Choice(["synthetic", "real"]),
    default="synthetic",
    show_default=True,
    help="Gradients of a few training steps, replayed; or real training on real data, which takes "
    "as long as it takes this machine.",
)
@options.data
@click.option(
    "--until", metavar="TIME", help="Break off after this virtual time: 90, 90s, 15m, 2h, 1d."
)
@click.option("--plot", type=options.FILE, metavar="FILE", help="Draw the run as a PNG.")
@click.option(
    "--out",
    type=options.FOLDER,
    help="Keep the run folder, the timeline and plans that reproduce violations.",
)
@click.option(
    "--no-checks",
    is_flag=True,
    help="Do not check psedge's invariants on the way: twice as fast with larger models.",
)
@click.option("--json", "as_json", is_flag=True, help="All figures as JSON, for programs.")
def simulate(
    config: Path,
    overrides: tuple[str, ...],
    seed: int | None,
    seeds: str | None,
    faults: Path | None,
    work: str,
    data: Path,
    until: str | None,
    plot: Path | None,
    out: Path | None,
    no_checks: bool,
    as_json: bool,
) -> int:
    """Run the experiment CONFIG on a cluster that is not there.

    The servers and workers are the real ones; time, network, disks and devices are virtual, as
    CONFIG's [[cluster.devices]] describe them. Says what such a cluster would give you, proves on
    the way that psedge's invariants hold, and ends with 1 if one does not.

    \b
    Examples:
      psedge simulate configs/seed-8nano-8rpi.toml --plot cluster.png
      psedge simulate configs/classroom-wifi.toml --set compression.push=q4 --until 30m
      psedge simulate configs/digits-quickstart.toml --work real
      psedge simulate configs/seed-11-mixed.toml --faults random --seeds 0:200
    """
    from psedge.simulation.command import SimulateOrder, run_simulate

    import_from_here()
    return run_simulate(
        SimulateOrder(
            config=config,
            overrides=overrides,
            seed=seed,
            seeds=seeds,
            faults=faults,
            work="real" if work == "real" else "synthetic",
            data=data,
            until=until,
            plot=plot,
            out=out,
            as_json=as_json,
            checks=not no_checks,
        )
    )
