"""Synthetic work: gradients of the user's own model, computed once and replayed by every worker.

They are real ones, of the last of a few training steps, so that what codecs make of them in bytes
is what they would make of them in training. The model that they train means nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from psedge.bench_gradients import Gradients, train
from psedge.compression.codec import Float32Array
from psedge.config import Experiment
from psedge.prepare import built_model, initial_state, load_sources
from psedge.protocol.errors import DataError
from psedge.simulation.model_cost import check_memory, model_factor
from psedge.simulation.problem import IndexSource
from psedge.simulation.work import Told
from psedge.work import Parts
from psedge.worker.binding import Binding
from psedge.worker.feed import Batch
from psedge.worker.model_layout import layout_of
from psedge.worker.objectives import cross_entropy

#: Training steps whose last gradients are replayed.
STEPS = 6
#: Training samples of data sets that are not on this machine.
KNOWN_SAMPLES = {"cifar10": 50_000, "fashion-mnist": 60_000}
DRIFT = 1e-3


class ReplayWork:
    """See the module. Raises UserError when the config's model or data cannot be had."""

    def __init__(self, experiment: Experiment, data: Path, notify: Callable[[str], None]) -> None:
        self._experiment = experiment
        samples = _train_samples(experiment, data, notify)
        # Before gradients, which would ask for pictures of a shape that nobody knows either.
        self.train_samples = samples or _known_samples(experiment)
        self._gradients = _gradients(experiment, data, samples is None, notify)
        self._module = built_model(experiment)
        self.model = initial_state(experiment, self._module)
        self.evaluator = None
        self.model_factor = model_factor(self._module, self._gradients.sample)
        self.log_factor = 1.0
        check_memory(experiment, len(self.model.parameters))

    def parts(self, worker: int, told: Told) -> Parts:
        module = copy.deepcopy(self._module)
        vectors = self._gradients.vectors
        first = worker % len(vectors)
        step = ReplayStep(module, [*vectors[first:], *vectors[:first]], told)
        return Parts(module, IndexSource(self.train_samples), cross_entropy, step)


class ReplayStep:
    """Gives one recorded gradient after the other as the model's, and moves its buffers a little.

    vectors: float32, as long as the parameters.
    """

    def __init__(self, module: nn.Module, vectors: Sequence[Float32Array], told: Told) -> None:
        binding = Binding(module, layout_of(module), torch.device("cpu"))
        self._told = told
        self._trained = list(binding.trained)
        self._tensors = [_cut(vector, self._trained) for vector in vectors]
        self._buffers = list(module.buffers())
        self._steps = 0

    def __call__(self, batches: Sequence[Batch]) -> float:
        self._told(np.concatenate([batch.inputs.numpy() for batch in batches]))
        tensors = self._tensors[self._steps % len(self._tensors)]
        for parameter, gradient in zip(self._trained, tensors, strict=True):
            parameter.grad = gradient
        self._steps += 1
        for buffer in self._buffers:
            buffer += DRIFT if buffer.is_floating_point() else 1
        return 0.0

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.zeros(len(inputs), 1)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return output.sum()


def _gradients(
    experiment: Experiment, data: Path, drawn: bool, notify: Callable[[str], None]
) -> Gradients:
    return train(experiment, data=data, device="cpu", steps=STEPS, synthetic=drawn, notify=notify)


def _train_samples(experiment: Experiment, data: Path, notify: Callable[[str], None]) -> int | None:
    assert experiment.data is not None
    # Where each worker has data of its own, this machine's stand for them.
    config = msgspec.structs.replace(experiment.data, placement="shared")
    known = msgspec.structs.replace(experiment, data=config)
    samples, _ = load_sources(known, data, lambda text: None)
    if samples is None:
        notify("the data are not on this machine: gradients come from pictures that are made up")
    return samples


def _known_samples(experiment: Experiment) -> int:
    assert experiment.data is not None
    name = experiment.data.dataset
    if name not in KNOWN_SAMPLES:
        raise DataError(
            f"the data set {name} is not on this machine, so that its size is unknown: put it "
            "where --data says"
        )
    return KNOWN_SAMPLES[name]


def _cut(vector: Float32Array, parameters: Sequence[Tensor]) -> list[Tensor]:
    tensors, at = [], 0
    for parameter in parameters:
        part = np.array(vector[at : at + parameter.numel()])
        tensors.append(torch.from_numpy(part).view(parameter.shape).to(parameter.dtype))
        at += parameter.numel()
    return tensors
