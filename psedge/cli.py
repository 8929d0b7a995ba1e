"""The `psedge` command: reads the command line, leaves the work to the rooms below.

Exit codes: 0 all went well, 1 it failed, 2 the user can mend it. What a command needs is imported
when it runs: `--help` answers at once, and a server that holds only shards never imports torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from psedge.commands import bench, chaos, replay, results, simulate, training
from psedge.loop import end_at_once_on_interrupt
from psedge.protocol.errors import PsedgeError, UserError
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
    What a cluster would give you, before you buy it:
      psedge simulate configs/seed-8nano-8rpi.toml --plot cluster.png

    \b
    What compression does to a model on this machine:
      psedge bench codecs configs/cifar10-resnet32.toml
    """


for command in (
    training.run,
    training.server,
    training.worker,
    results.status,
    results.evaluate,
    results.export,
    bench.bench,
    simulate.simulate,
    chaos.chaos,
    replay.replay,
):
    psedge.add_command(command)
