"""What is left to say when a run has ended: its `result.json` as a table for people."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from psedge.supervisor.checkpoint import FOLDER as CHECKPOINT_FOLDER
from psedge.supervisor.checkpoint import META_FILE
from psedge.terminal import figures

_VERDICT_STYLE = {"finished": "bold green", "stopped": "bold yellow", "failed": "bold red"}


def summary(
    result: Mapping[str, Any], folder: Path, plot: Path | None, *, of_objects: bool = False
) -> RenderableType:
    """The figures of `result.json`, where the files are, and what to do next.

    plot: the picture of the learning curve; None when there is none. of_objects: the run was one
    of Python objects, which the commands that build the model anew from its name cannot repeat.
    """
    phase = str(result.get("phase", "finished"))
    title = Text.assemble(
        (str(result.get("run", folder.name)), "bold"),
        " ",
        (phase, _VERDICT_STYLE.get(phase, "bold")),
        f" after {figures.duration(result.get('seconds', 0.0))}",
    )
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in result_rows(result):
        table.add_row(label, text)
    table.add_row("", "")
    if plot is not None:
        table.add_row("learning curve", str(plot))
    table.add_row("run folder", str(folder))
    for label, command in _next_commands(phase, folder, of_objects):
        table.add_row(label, Text(command, style="cyan"))
    parts: list[RenderableType] = [Text(), title]
    if result.get("reason"):
        parts.append(Text(str(result["reason"]), style=_VERDICT_STYLE.get(phase, "")))
    return Padding(Group(*parts, Text(), table), (0, 1))


def result_rows(result: Mapping[str, Any]) -> list[tuple[str, RenderableType]]:
    """The figures of `result.json` that people want to see, each with its label."""
    rows: list[tuple[str, RenderableType]] = []
    accuracy, best = result.get("test_accuracy"), result.get("best_accuracy")
    if accuracy is not None:
        text = Text(figures.percent(accuracy), style="bold green")
        if best is not None and best > accuracy:
            text.append(f"  best {figures.percent(best)}", style="not bold dim")
        rows.append(("test accuracy", text))
    if result.get("test_loss") is not None:
        rows.append(("test loss", f"{result['test_loss']:.4f}"))
    rows.extend(
        (name, f"{value:.4f}") for name, value in (result.get("test_metrics") or {}).items()
    )
    samples = figures.count(result.get("samples_applied", 0))
    rate = figures.count(result.get("samples_per_second", 0))
    rows.append(("trained on", f"{samples} samples, {rate} samples/s"))
    applied = figures.count(result.get("pushes_applied", 0))
    refused = figures.count(result.get("pushes_refused", 0))
    rows.append(("pushes", f"{applied} applied, {refused} refused"))
    staleness, lag = result.get("staleness_max", 0), result.get("lag_max", 0)
    rows.append(("at most", f"staleness {staleness}, lag {lag}"))
    pushed = figures.data_size(result.get("bytes_pushed", 0))
    pulled = figures.data_size(result.get("bytes_pulled", 0))
    rows.append(("network", f"{pushed} pushed, {pulled} pulled"))
    servers = figures.plural(result.get("servers", 0), "server")
    workers = figures.plural(result.get("workers", 0), "worker")
    rows.append(("cluster", f"{servers}, {workers}"))
    return rows


def _next_commands(phase: str, folder: Path, of_objects: bool) -> list[tuple[str, str]]:
    name = shlex.quote(str(folder))
    if phase != "finished":
        if of_objects or not any((folder / CHECKPOINT_FOLDER).glob(f"*/{META_FILE}")):
            return []
        again = f"psedge run {shlex.quote(str(folder / 'config.toml'))} --out {name} --resume"
        return [("to continue", again)]
    model = shlex.quote(str(folder / "model.safetensors"))
    export = ("take the model", f"psedge export {name} -o {model}")
    return [export] if of_objects else [("measure again", f"psedge eval {name}"), export]
