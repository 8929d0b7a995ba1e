"""Real work: every virtual worker trains the config's model on its data, at virtual time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from psedge.config import Experiment
from psedge.own_packages import own_allow_list
from psedge.prepare import built_model, initial_state, measure_with
from psedge.protocol.errors import ConfigError
from psedge.protocol.status import Evaluation
from psedge.simulation.model_cost import check_memory, model_factor
from psedge.simulation.work import Told
from psedge.supervisor.model_state import ModelState
from psedge.work import Parts
from psedge.worker.datasets.source import Source
from psedge.worker.datasets.table import load
from psedge.worker.feed import Batch
from psedge.worker.gradient import GradientStep, Step
from psedge.worker.objectives import resolve_loss, resolve_metrics

CPU = torch.device("cpu")
_INDICES = "indices_of_samples"


class RealWork:
    """See the module. Raises UserError when the config's model or data cannot be had."""

    def __init__(self, experiment: Experiment, data: Path, notify: Callable[[str], None]) -> None:
        if experiment.model is None or experiment.data is None:
            raise ConfigError("real work needs [model] and [data] in the config")
        if experiment.data.placement == "local":
            raise ConfigError(
                "data.placement: local data lie on the machines that are only simulated here; "
                "use --work synthetic"
            )
        self._experiment = experiment
        self._config = experiment.model
        allow = own_allow_list(experiment)
        self._loss = resolve_loss(experiment.model, allow)
        self._train = load(experiment.data, "train", data, allow)
        self._module = built_model(experiment)
        self.model = initial_state(experiment, self._module)
        self.train_samples = len(self._train)
        sample, _ = self._train.batch(np.zeros(1, np.int64), None)
        self.model_factor = model_factor(self._module, sample)
        self.log_factor = 1.0
        check_memory(experiment, len(self.model.parameters))
        measure = measure_with(
            experiment,
            copy.deepcopy(self._module),
            load(experiment.data, "test", data, allow),
            self._loss,
            resolve_metrics(experiment.model, allow),
        )

        async def evaluator(state: ModelState) -> Evaluation:
            # The supervisor's machine measures beside its work, and nobody waits for it.
            return measure(state)

        self.evaluator = evaluator

    def parts(self, worker: int, told: Told) -> Parts:
        module = copy.deepcopy(self._module)
        step = GradientStep(
            module,
            self._loss,
            CPU,
            precision=self._config.precision,
            channels_last=self._config.channels_last,
            clip_norm=self._experiment.worker.clip_norm,
        )
        return Parts(module, IndexedSource(self._train), self._loss, ToldStep(step, told))


class IndexedSource:
    """A Source whose inputs know which samples they are."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.classes = source.classes
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        inputs, targets = self._source.batch(indices, generator)
        setattr(inputs, _INDICES, indices)
        return inputs, targets


class ToldStep:
    """A Step that tells which samples went into each gradient."""

    def __init__(self, step: Step, told: Told) -> None:
        self._step = step
        self._told = told

    def __call__(self, batches: Sequence[Batch]) -> float:
        self._told(np.concatenate([getattr(batch.inputs, _INDICES) for batch in batches]))
        return self._step(batches)

    def forward(self, inputs: Tensor) -> Tensor:
        return self._step.forward(inputs)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return self._step.loss(output, targets)
