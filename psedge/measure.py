"""`psedge eval`: the latest model of a run, measured on the run's test data."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from psedge.config import OBJECT
from psedge.export import Run, load_run
from psedge.protocol.errors import ConfigError, ModelError
from psedge.protocol.status import Evaluation
from psedge.terminal import figures
from psedge.worker.config import DataConfig, ModelConfig
from psedge.worker.datasets.table import load
from psedge.worker.device import choose_device
from psedge.worker.evaluation import evaluate
from psedge.worker.imports import AllowList
from psedge.worker.model_layout import layout_of
from psedge.worker.models.table import build
from psedge.worker.objectives import resolve_loss, resolve_metrics


def measure_run(
    folder: Path, *, data: Path, device: str, allow: tuple[str, ...], as_json: bool
) -> int:
    """Print loss and metrics of a run folder's latest model.

    Raises UserError when the folder holds no model, or this machine lacks the data.
    """
    run = load_run(folder)
    for note in run.notes:
        sys.stderr.write(f"note: {note}\n")
    evaluation = measure(run, data=data, device=device, allow=allow)
    if as_json:
        text = msgspec.json.format(msgspec.json.encode(evaluation), indent=2)
        sys.stdout.write(text.decode() + "\n")
    else:
        Console().print(_table(run, evaluation))
    return 0


def measure(
    run: Run, *, data: Path, device: str = "auto", allow: tuple[str, ...] = ()
) -> Evaluation:
    """The model of `run` on its whole test data.

    data: this machine's data folder. allow: packages that the run's config may import from.
    """
    config, data_config = run.experiment.model, run.experiment.data
    if config is None or data_config is None or _has_objects(config, data_config):
        raise ConfigError(
            f"{run.folder} was trained by a program that brought its own model, loss or data "
            "set: take the model with psedge export and measure it there"
        )
    permitted, chosen = AllowList(allow), choose_device(device)
    model = build(config, permitted, run.experiment.seed)
    try:
        model.load_state_dict(run.state_dict())
    except RuntimeError as error:
        difference = layout_of(model).difference(run.checkpoint.layout) or str(error)
        raise ModelError(
            f"the model in {run.folder} is not the {config.factory} of its config: {difference}"
        ) from error
    return evaluate(
        model.to(chosen),
        load(data_config, "test", data, permitted),
        resolve_loss(config, permitted),
        resolve_metrics(config, permitted),
        chosen,
        precision=config.precision,
        channels_last=config.channels_last,
    )


def _has_objects(model: ModelConfig, data: DataConfig) -> bool:
    return OBJECT in (model.factory, model.loss, data.dataset)


def _table(run: Run, evaluation: Evaluation) -> Table:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    if evaluation.accuracy is not None:
        table.add_row("test accuracy", f"[bold green]{figures.percent(evaluation.accuracy)}")
    table.add_row("test loss", figures.loss(evaluation.loss))
    for name, value in evaluation.metrics.items():
        table.add_row(name, f"{value:.4f}")
    table.add_row("measured on", f"{figures.count(evaluation.samples)} samples")
    table.add_row("trained on", f"{figures.count(run.checkpoint.samples)} samples")
    return table
