"""The commands that look at runs: `psedge status`, `eval` and `export`."""

from __future__ import annotations

from pathlib import Path

import click

from psedge.commands import options
from psedge.commands.here import import_from_here


@click.command()
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


@click.command(name="eval")
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

    import_from_here()
    return measure_run(run, data=data, device=device, allow=allow, as_json=as_json)


@click.command()
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
