"""What the first server makes ready before a run: the model, the measuring, the last checkpoint.

The only part of a server process that needs torch, and only when the experiment names a model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from psedge.config import Experiment
from psedge.own_packages import own_allow_list
from psedge.protocol.errors import ConfigError, DataError
from psedge.protocol.shards import OptimizerSettings
from psedge.protocol.status import Evaluation
from psedge.server.optimizer_settings import settings_of
from psedge.supervisor.model_state import ModelState
from psedge.supervisor.setup import Evaluator
from psedge.worker.binding import Binding
from psedge.worker.datasets.source import Source
from psedge.worker.datasets.table import load
from psedge.worker.evaluation import check_fit, evaluate
from psedge.worker.imports import resolve
from psedge.worker.model_layout import layout_of
from psedge.worker.models.table import build
from psedge.worker.objectives import Loss, Metric
from psedge.worker.torch_optimizer import settings_of_torch


def initial_state(
    experiment: Experiment, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> ModelState:
    """The state of a model that was just built, with its optimizer resolved.

    optimizer: one that the caller made over the model's parameters; None takes the config's.
    """
    layout = layout_of(model)
    binding = Binding(model, layout, next(model.parameters()).device)
    binding.read_model()
    settings, groups = _optimizer(experiment, model, optimizer)
    if len(binding.parameters) < experiment.cluster.servers:
        raise ConfigError(
            f"the model has {len(binding.parameters)} parameters, too few for "
            f"{experiment.cluster.servers} servers"
        )
    return ModelState(
        layout=layout,
        settings=settings,
        groups=groups,
        parameters=np.array(binding.parameters),
        buffers=np.array(binding.buffers),
        counters=np.array(binding.counters),
        frozen=np.array(binding.frozen),
    )


def built_model(experiment: Experiment) -> nn.Module:
    """The experiment's model with its initial parameters, the same for the same seed."""
    assert experiment.model is not None
    allow = own_allow_list(experiment)
    return build(experiment.model, allow, experiment.seed, pretrained=True)


def load_sources(
    experiment: Experiment, folder: Path, notify: Callable[[str], None]
) -> tuple[int | None, Source | None]:
    """Size of the training set and the test set, as far as this machine has them.

    A server need not have the data; without it the workers say how much there is, and nobody
    measures the accuracy, which `notify` is told.
    """
    data = experiment.data
    if data is None:
        return None, None
    allow = own_allow_list(experiment)
    train_samples = None
    try:
        if data.placement == "shared":
            train_samples = len(load(data, "train", folder, allow))
        return train_samples, load(data, "test", folder, allow)
    except DataError as error:
        notify(f"no accuracy will be measured, for the server has no test data: {error}")
        return train_samples, None


def measure_with(
    experiment: Experiment,
    model: nn.Module,
    test: Source,
    loss: Loss,
    metrics: Mapping[str, Metric],
) -> Callable[[ModelState], Evaluation]:
    """Measures on `test`, with a model that nobody else may touch meanwhile.

    Raises UserError if the test data do not fit the model, loss or metrics.
    """
    config = experiment.model
    assert config is not None
    check_fit(model, test, loss, metrics, next(model.parameters()).device, config)

    def measure(state: ModelState) -> Evaluation:
        write_state(model, state)
        device = next(model.parameters()).device
        return evaluate(
            model,
            test,
            loss,
            metrics,
            device,
            precision=config.precision,
            channels_last=config.channels_last,
        )

    return measure


def evaluator_of(
    experiment: Experiment,
    model: nn.Module,
    test: Source,
    loss: Loss,
    metrics: Mapping[str, Metric],
) -> Evaluator:
    """As `measure_with`, in a thread."""
    measure = measure_with(experiment, model, test, loss, metrics)

    async def evaluator(state: ModelState) -> Evaluation:
        return await asyncio.to_thread(measure, state)

    return evaluator


def write_state(model: nn.Module, state: ModelState) -> None:
    """Put the state's values into a torch model of the same layout."""
    device = next(model.parameters()).device
    binding = Binding(model, state.layout, device)
    binding.parameters[:] = state.parameters
    binding.buffers[:] = state.buffers
    binding.counters[:] = state.counters
    binding.frozen[:] = state.frozen
    binding.write_parameters()
    binding.write_buffers()
    binding.write_frozen()


def _optimizer(
    experiment: Experiment, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> tuple[OptimizerSettings, tuple[int, ...]]:
    config = experiment.optimizer
    layout = layout_of(model)
    if optimizer is None:
        if not config.factory:
            return settings_of(config, layout)
        factory = resolve(config.factory, {}, own_allow_list(experiment), "optimizer")
        optimizer = factory(model, **config.arguments)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"optimizer {config.factory!r} returned {type(optimizer).__name__}, not a "
            "torch.optim.Optimizer"
        )
    parameters = dict(model.named_parameters())
    trained = [(spec.name, parameters[spec.name]) for spec in layout.of_role("parameter")]
    return settings_of_torch(optimizer, trained)
