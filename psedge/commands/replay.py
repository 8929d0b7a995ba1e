"""`psedge replay`: what a server's log on disk comes to."""

from __future__ import annotations

from pathlib import Path

import click

from psedge.commands import options


@click.command()
@click.argument("folder", type=options.FOLDER)
@click.option("--shard", type=click.IntRange(min=0), help="Only the log of this shard.")
@click.option(
    "--to", metavar="INDEX", type=click.IntRange(min=0), help="Stop after this entry of the log."
)
@click.option(
    "--out",
    type=options.FILE,
    metavar="FILE",
    help="Write the shard that comes out: a .safetensors file.",
)
def replay(folder: Path, shard: int | None, to: int | None, out: Path | None) -> int:
    """Apply the logs in FOLDER once more, and check that they lead where they led.

    FOLDER is what `psedge server --store` was given, or the folder of one shard in it. Each shard's
    oldest snapshot is loaded and every entry of its log applied; all digests in the log are
    compared with the parameters, bit for bit. Nothing in FOLDER is changed. Ends with 1 if a
    digest differs, with 2 if a log is damaged or there is none to read.

    \b
    Examples:
      psedge replay /var/lib/psedge
      psedge replay /var/lib/psedge --shard 3 --to 5000 --out shard-3.safetensors
    """
    from psedge.replay import run_replay

    return run_replay(folder, shard, to, out)
