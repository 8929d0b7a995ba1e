"""The `psedge` command: reads the command line, leaves the work to the rooms below.

Exit codes: 0 all went well, 1 it failed, 2 the user can mend it. What a command needs is imported
when it runs: `--help` answers at once, and a server that holds only shards never imports torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from psedge import options
from psedge.loop import end_at_once_on_interrupt
from psedge.protocol.errors import ConfigError, PsedgeError, UserError
from psedge.protocol.version import __version__


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process with its exit code."""
    end_at_once_on_interrupt()
    sys.exit(exit_code(sys.argv[1:] if arguments is None else arguments))


def exit_code(arguments: Sequence[str]) -> int:
    """Run one command; mistakes become one line on standard error, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        result = psedge.main(list(arguments), prog_name="psedge", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except UserError as error:
        return _say(error, 2)
    except PsedgeError as error:
        return _say(error, 1)
    except BrokenPipeError:
        # The reader of our output has gone, as in `psedge status | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _say(error, 1)
    except (KeyboardInterrupt, click.Abort):
        return _say("stopped by Ctrl-C", 1)
    return result if isinstance(result, int) else 0


def _say(error: Exception | str, code: int) -> int:
    click.echo(click.style("error: ", fg="red", bold=True) + str(error), err=True)
    return code


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96})
@click.version_option(__version__, prog_name="psedge", message="%(prog)s %(version)s")
def psedge() -> None:
    """Train PyTorch models on the machines you already own.

    Servers hold the model, each a share of it. Workers compute gradients from their part of the
    data, push them to the servers and receive fresh parameters.

    \b
    On this machine alone:
      psedge run configs/digits-quickstart.toml

    \b
    On several machines, one line each:
      pc$ psedge server configs/cifar10-resnet32.toml --host 0.0.0.0
      pi$ psedge worker --join http://TOKEN@pc.local:7700
    The server prints the line for the workers, its token included.

    \b
    Afterwards:
      psedge eval runs/NAME
      psedge export runs/NAME -o model.safetensors

    \b
    What compression does to a model on this machine:
      psedge bench codecs configs/cifar10-resnet32.toml
    """


@psedge.command()
@click.argument("config", type=options.FILE)
@options.set_
@options.out
@click.option(
    "--resume", is_flag=True, help="Continue the run in --out, or the latest of its name."
)
@options.data
@options.device
@options.allow
def run(
    config: Path,
    overrides: tuple[str, ...],
    out: Path | None,
    resume: bool,
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
    from psedge.launch import RunOrder, run_experiment

    _import_from_here()
    return run_experiment(
        RunOrder(
            config=config,
            overrides=overrides,
            out=out,
            resume=resume,
            data=data,
            device=device,
            allow=allow,
        )
    )


@psedge.command()
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
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
@options.out
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
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
    data: Path,
    with_parent: bool,
) -> int:
    """Start a parameter server.

    The first server is started without --join. It holds the supervisor too, and prints the line
    to paste on the workers and on further servers. With CONFIG it trains that experiment; without,
    it waits for a program that calls psedge.connect and brings its model.

    \b
    Examples:
      psedge server configs/cifar10-resnet32.toml --host 0.0.0.0
      psedge server --join http://TOKEN@pc.local:7700 --host 0.0.0.0
    """
    if join is not None:
        _refuse_experiment(config, overrides, out, resume)
    from psedge.serve import run_server

    _import_from_here()
    return run_server(
        config_path=config,
        overrides=overrides,
        join=join,
        host=host,
        port=port,
        out=out,
        resume=resume,
        data=data,
        with_parent=with_parent,
    )


@psedge.command()
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

    _import_from_here()
    return run_worker(
        join=join,
        device=device,
        name=name,
        data=data,
        allow=allow,
        pace=pace,
        with_parent=with_parent,
    )


@psedge.command()
@options.join
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON, for programs.")
def status(join: str, as_json: bool) -> int:
    """Show how a run is going.

    \b
    Examples:
      psedge status --join http://TOKEN@pc.local:7700
      psedge status --join http://TOKEN@pc.local:7700 --json
    """
    from psedge.terminal.look import show_status

    return show_status(join, as_json)


@psedge.command(name="eval")
@click.argument("run", metavar="RUN", type=options.FOLDER)
@options.data
@options.device
@options.allow
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON, for programs.")
def evaluate(run: Path, data: Path, device: str, allow: tuple[str, ...], as_json: bool) -> int:
    """Measure the latest model of the run folder RUN on its test data.

    \b
    Example:
      psedge eval runs/digits-quickstart-20260131-120000
    """
    from psedge.measure import measure_run

    _import_from_here()
    return measure_run(run, data=data, device=device, allow=allow, as_json=as_json)


@psedge.command()
@click.argument("run", metavar="RUN", type=options.FOLDER)
@click.option(
    "-o",
    "--output",
    type=options.FILE,
    required=True,
    help="File to write; its ending says how: .safetensors, or .pt for torch.load.",
)
def export(run: Path, output: Path) -> int:
    """Write the latest model of the run folder RUN as a file of its own.

    The file holds the model's state_dict, under the model's own names, shapes and types; plain
    torch or safetensors reads it, without psedge.

    \b
    Examples:
      psedge export runs/digits-quickstart-20260131-120000 -o model.safetensors
      psedge export runs/digits-quickstart-20260131-120000 -o model.pt
    """
    from psedge.export import export as export_run
    from psedge.export import load_run

    found = load_run(run)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    export_run(found, output)
    click.echo(f"wrote {output}")
    return 0


@psedge.group()
def bench() -> None:
    """Measure what psedge does on this machine.

    \b
    Example:
      psedge bench codecs
    """


@bench.command()
@click.argument("config", type=options.FILE, required=False)
@options.set_
@options.data
@options.device
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Training steps whose last gradients are measured.",
)
@click.option("--codec", "codecs", metavar="NAME", multiple=True, help="Only this; repeatable.")
@click.option("--synthetic", is_flag=True, help="Random pictures where the data are not here.")
@click.option("--json", "as_json", is_flag=True, help="All rows as JSON, for programs.")
@click.option(
    "--out",
    type=options.FILE,
    help="The picture, a PNG.  [default: codecs-NAME.png; none for JSON]",
)
def codecs(
    config: Path | None,
    overrides: tuple[str, ...],
    data: Path,
    device: str,
    steps: int,
    codecs: tuple[str, ...],
    synthetic: bool,
    as_json: bool,
    out: Path | None,
) -> int:
    """Measure every codec on gradients of the model in CONFIG.

    Trains a few steps, then encodes and decodes the gradients with each codec: time against
    copying memory, bits on the wire, error, and the speed of the link below which it pays.
    Without CONFIG it measures ResNet-32 on pictures that it draws itself.

    \b
    Examples:
      psedge bench codecs
      psedge bench codecs configs/cifar10-resnet32.toml --data data
      psedge bench codecs --codec q4 --codec top-k --set compression.density=0.001
    """
    from psedge.bench import BenchOrder, bench_codecs

    _import_from_here()
    return bench_codecs(
        BenchOrder(
            config=config,
            overrides=overrides,
            data=data,
            device=device,
            steps=steps,
            synthetic=synthetic,
            codecs=codecs,
            as_json=as_json,
            out=out,
        )
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


def _import_from_here() -> None:
    """Let `module:function` name modules of the current folder, last of all."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
