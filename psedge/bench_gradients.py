"""Gradients to measure codecs on: those of a few steps of the user's own model on their own data.

Made-up numbers would flatter or slander a codec: real gradients are heavy-tailed and differ from
layer to layer. So the model is built, fed and stepped as a worker would do it, in this process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from psedge.compression.codec import Float32Array
from psedge.config import Experiment
from psedge.own_packages import own_allow_list
from psedge.prepare import built_model, initial_state
from psedge.protocol.errors import ConfigError, DataError
from psedge.protocol.layout import Layout
from psedge.protocol.shards import LocalOptimizer
from psedge.worker.binding import Binding
from psedge.worker.config import DataConfig, ModelConfig
from psedge.worker.datasets.order import permuted
from psedge.worker.datasets.source import ArraySource, Source
from psedge.worker.datasets.table import load
from psedge.worker.device import choose_device, use_threads
from psedge.worker.evaluation import check_fit
from psedge.worker.feed import Batch
from psedge.worker.gradient import GradientStep
from psedge.worker.objectives import resolve_loss
from psedge.worker.torch_optimizer import torch_optimizer

#: Gradients that are kept, of the last steps: encoders need some to come into their stride. Of a
#: large model two have to do, on machines whose memory is small.
KEPT, KEPT_OF_LARGE = 4, 2
_LARGE_ELEMENTS = 4_000_000
_SYNTHETIC_SAMPLES = 256
#: Shape [channels, height, width] and classes of the data sets that pictures can be made up for.
_SHAPES = {"cifar10": ((3, 32, 32), 10), "fashion-mnist": ((1, 28, 28), 10)}


@dataclass(frozen=True, slots=True)
class Gradients:
    """What was trained, and what came of it.

    parameters: float32, after the last step. vectors: gradients of the last steps, oldest first,
    float32 and as long. step_seconds: of forward, backward and optimizer, the median.
    title: model and data, for people. sample: the inputs of one sample, as a batch.
    """

    layout: Layout
    parameters: Float32Array
    vectors: list[Float32Array]
    step_seconds: float
    steps: int
    title: str
    sample: Tensor


def train(
    experiment: Experiment,
    *,
    data: Path,
    device: str,
    steps: int,
    synthetic: bool,
    notify: Callable[[str], None],
) -> Gradients:
    """Take `steps` steps of the experiment's own optimizer, with its batch size and precision.

    data: this machine's data folder. synthetic: random pictures and labels instead of data.
    Raises UserError when the experiment names no model or data, they do not fit each other, the
    data are not here, or a gradient is not finite.
    """
    model_config, data_config = _sections(experiment)
    allow, chosen = own_allow_list(experiment), choose_device(device)
    use_threads(experiment.worker.threads)
    loss = resolve_loss(model_config, allow)
    source = _source(experiment, data_config, data, synthetic)
    model = built_model(experiment).to(chosen)
    check_fit(model, source, loss, {}, chosen, model_config)
    state = initial_state(experiment, model)
    binding = Binding(model, state.layout, chosen)
    optimizer = torch_optimizer(LocalOptimizer(state.settings, state.groups), list(binding.trained))
    step = GradientStep(
        model,
        loss,
        chosen,
        precision=model_config.precision,
        channels_last=model_config.channels_last,
        clip_norm=experiment.worker.clip_norm,
    )
    large = len(binding.gradients) > _LARGE_ELEMENTS
    vectors: deque[Float32Array] = deque(maxlen=KEPT_OF_LARGE if large else KEPT)
    seconds = []
    torch.manual_seed(experiment.seed)
    for index in range(steps):
        notify(f"training step {index + 1} of {steps}")
        batches = [
            _batch(source, data_config, experiment.seed, index * experiment.worker.accumulate + k)
            for k in range(experiment.worker.accumulate)
        ]
        started = time.perf_counter()
        step(batches)
        optimizer.step()
        binding.read_gradients()
        seconds.append(time.perf_counter() - started)
        vectors.append(_finite(binding.gradients, index + 1))
    binding.read_parameters()
    title = f"{_short(model_config.factory)} on {_short(source.name)}"
    median = float(np.median(seconds))
    sample, _ = source.batch(np.zeros(1, np.int64), None)
    return Gradients(state.layout, binding.parameters, list(vectors), median, steps, title, sample)


def _short(reference: str) -> str:
    """The function of `module:function`; other names as they are."""
    return reference.rpartition(":")[2]


def _sections(experiment: Experiment) -> tuple[ModelConfig, DataConfig]:
    if experiment.model is None or experiment.data is None:
        raise ConfigError(
            f"{experiment.name}: to measure codecs on a model's gradients, the config needs the "
            "sections [model] and [data]"
        )
    return experiment.model, experiment.data


def _source(experiment: Experiment, config: DataConfig, folder: Path, synthetic: bool) -> Source:
    if synthetic:
        return _made_up(config, experiment.seed)
    try:
        return load(config, "train", folder, own_allow_list(experiment))
    except DataError as error:
        hint = "; or measure on random pictures: --synthetic" if config.dataset in _SHAPES else ""
        raise DataError(f"{error}{hint}") from error


def _made_up(config: DataConfig, seed: int) -> Source:
    """Random pictures: what the gradients are like then is the model's doing alone."""
    if config.dataset not in _SHAPES:
        raise ConfigError(
            f"--synthetic makes up pictures for {' and '.join(_SHAPES)} only: nobody but the data "
            f"set {config.dataset} itself knows the shape of its samples"
        )
    shape, classes = _SHAPES[config.dataset]
    draw = np.random.default_rng(seed)
    pictures = draw.standard_normal((_SYNTHETIC_SAMPLES, *shape), np.float32)
    labels = draw.integers(0, classes, _SYNTHETIC_SAMPLES)
    return ArraySource("random pictures", pictures, labels, classes=classes)


def _batch(source: Source, config: DataConfig, seed: int, number: int) -> Batch:
    samples = len(source)
    size = min(config.batch_size, samples)
    epoch, place = divmod(number, samples // size)
    positions = np.arange(place * size, (place + 1) * size, dtype=np.int64)
    generator = torch.Generator().manual_seed(seed + number) if config.augment else None
    inputs, targets = source.batch(permuted(positions, samples, seed, epoch), generator)
    return Batch(inputs, targets, size)


def _finite(gradient: Float32Array, step: int) -> Float32Array:
    if not np.isfinite(gradient).all():
        raise ConfigError(
            f"the gradient of step {step} holds NaN or infinite values: lower optimizer.lr"
        )
    return np.array(gradient)
