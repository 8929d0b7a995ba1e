"""Lines for the person at the terminal of a server or worker."""

from __future__ import annotations

import os
import sys

import click


def say(text: str) -> None:
    """Print a line. A full disk under the log, or a reader that has gone, ends no training."""
    try:
        # By name, for click would look past what a live view has put in the place of stdout, which
        # prints above its picture.
        click.echo(text, file=sys.stdout)
    except BrokenPipeError:
        # What is still in Python's buffer would raise once more at the end of the process.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except OSError:
        return
