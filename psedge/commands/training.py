"""The commands that train: `psedge run`, `server` and `worker`."""

from __future__ import annotations

from pathlib import Path

import click

from psedge.commands import options
from psedge.commands.here import import_from_here
from psedge.protocol.errors import ConfigError


@click.command()
@click.argument("config", type=options.FILE)
@options.set_
@options.out
@click.option(
    "--resume", is_flag=True, help="Continue the run in --out, or the latest of its name."
)
@options.from_checkpoint
@options.data
@options.device
@options.allow
def run(
    config: Path,
    overrides: tuple[str, ...],
    out: Path | None,
    resume: bool,
    from_checkpoint: bool,
    data: Path,
    device: str,
    allow: tuple[str, ...],
) -> int:
    """Run the experiment CONFIG on this machine and watch it.

    Starts as many servers and workers as CONFIG's [cluster] section says, each a process of its
    own, shows one view of them all, and ends with a summary and a picture of the learning curve
    in the run folder. Ctrl-C stops in order, with a checkpoint; --resume goes on from there.

    \b
    Examples:
      psedge run configs/digits-quickstart.toml
      psedge run configs/digits-quickstart.toml --set cluster.workers=2 --set sync.mode=bsp
      psedge run configs/digits-quickstart.toml --resume
    """
    _require_resume(resume, from_checkpoint)
    from psedge.launch import run_experiment
    from psedge.orders import RunOrder

    import_from_here()
    return run_experiment(
        RunOrder(
            config=config,
            overrides=overrides,
            out=out,
            resume=resume,
            data=data,
            device=device,
            allow=allow,
            from_checkpoint=from_checkpoint,
        )
    )


@click.command()
@click.argument("config", type=options.FILE, required=False)
@options.set_
@click.option(
    "--join",
    metavar="URL",
    help="Join the run of this first server instead of starting one; the line it printed.",
)
@click.option(
    "--host",
    help="Address to listen on; 0.0.0.0 opens the door to the network, to those with the token.  "
    "[default: this machine only]",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port; 0 takes a free one.  [default: 7700, or the one that a run had; with --join the "
    "first free one, and not that of a first server on this machine]",
)
@options.out
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run in --out: with its servers and workers if they still train, else from "
    "its last checkpoint.",
)
@options.from_checkpoint
@click.option(
    "--store",
    type=options.FOLDER,
    help="Folder for this server's logs, where CONFIG's [durability] asks for them.  "
    "[default: servers/0 in the run folder; with --join runs/NAME/servers/PORT, from the current "
    "folder]",
)
@options.data
@options.with_parent
def server(
    config: Path | None,
    overrides: tuple[str, ...],
    join: str | None,
    host: str | None,
    port: int | None,
    out: Path | None,
    resume: bool,
    from_checkpoint: bool,
    store: Path | None,
    data: Path,
    with_parent: bool,
) -> int:
    """Start a parameter server.

    The first server is started without --join. It holds the supervisor too, and prints the line
    to paste on the workers and on further servers. With CONFIG it trains that experiment; without,
    it waits for a program that calls psedge.connect and brings its model. With
    cluster.supervisor_apart = true it only supervises, and all servers join it.

    \b
    Examples:
      psedge server configs/cifar10-resnet32.toml --host 0.0.0.0
      psedge server --join http://TOKEN@pc.local:7700 --host 0.0.0.0

    \b
    If the first server was ended in the middle of training, the others go on; bring it back with
      psedge server --resume --out runs/NAME --host 0.0.0.0
    If servers are lost for good, add --from-checkpoint.
    """
    _require_resume(resume, from_checkpoint)
    if join is not None:
        _refuse_experiment(config, overrides, out, resume)
    from psedge.orders import ServerOrder
    from psedge.serve import run_server

    import_from_here()
    return run_server(
        ServerOrder(
            config=config,
            overrides=overrides,
            join=join,
            host=host,
            port=port,
            out=out,
            resume=resume,
            store=store,
            data=data,
            with_parent=with_parent,
            from_checkpoint=from_checkpoint,
        )
    )


@click.command()
@options.join
@options.device
@click.option("--name", default="", help="Name in all views.  [default: this machine's name]")
@options.data
@options.allow
@click.option(
    "--pace",
    type=click.FloatRange(min=1.0),
    default=1.0,
    show_default=True,
    help="Be so many times slower than this machine can, to try out a mixed cluster.",
)
@options.with_parent
def worker(
    join: str,
    device: str,
    name: str,
    data: Path,
    allow: tuple[str, ...],
    pace: float,
    with_parent: bool,
) -> int:
    """Train for a server with this machine's share of the data.

    Fetches the experiment from the server, computes gradients, pushes them, reports. May be
    started before the server, and stopped and started at any time; the others go on.

    \b
    Examples:
      psedge worker --join http://TOKEN@pc.local:7700
      psedge worker --join http://TOKEN@pc.local:7700 --name hall-3 --data /mnt/images
    """
    from psedge.work import run_worker

    import_from_here()
    return run_worker(
        join=join,
        device=device,
        name=name,
        data=data,
        allow=allow,
        pace=pace,
        with_parent=with_parent,
    )


def _refuse_experiment(
    config: Path | None, overrides: tuple[str, ...], out: Path | None, resume: bool
) -> None:
    """A server that joins another gets all of these from it."""
    given = {"CONFIG": config, "--set": overrides, "--out": out, "--resume": resume}
    for name, value in given.items():
        if value:
            raise ConfigError(
                f"{name} belongs to the first server: a server that joins another takes the "
                "experiment from there"
            )


def _require_resume(resume: bool, from_checkpoint: bool) -> None:
    if from_checkpoint and not resume:
        raise ConfigError("--from-checkpoint says how to --resume a run: give both")
