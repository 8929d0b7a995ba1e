"""The options that several `psedge` commands share, each explained once."""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)

set_ = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a key of CONFIG, such as --set optimizer.lr=0.05; may be repeated.",
)
out = click.option("--out", type=FOLDER, help="Run folder.  [default: runs/NAME-DATE-TIME]")
join = click.option(
    "--join", metavar="URL", required=True, help="The line that the first server printed."
)
from_checkpoint = click.option(
    "--from-checkpoint",
    is_flag=True,
    help="With --resume: go back to the last checkpoint at once, also if servers still train or "
    "their logs may come back. What they have beyond it is lost, and said.",
)
data = click.option(
    "--data",
    type=FOLDER,
    default=Path("data"),
    show_default=True,
    help="Folder that holds this machine's data sets.",
)
device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="What to compute on; auto takes a GPU if there is one.",
)
allow = click.option(
    "--allow",
    metavar="PACKAGE",
    multiple=True,
    help="A package of yours that experiments may use here, as in `factory = "
    '"package:function"`; may be repeated. psedge and torchvision are always allowed, and '
    "nothing else is ever imported.",
)
with_parent = click.option("--with-parent", is_flag=True, hidden=True)
