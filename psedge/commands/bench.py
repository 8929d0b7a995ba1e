"""The commands that measure psedge on this machine: `psedge bench ...`."""

from __future__ import annotations

from pathlib import Path

import click

from psedge.commands import options
from psedge.commands.here import import_from_here


@click.group()
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

    import_from_here()
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
