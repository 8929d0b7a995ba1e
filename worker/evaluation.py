"""How good a model is: its loss and metrics over the whole of a data set."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from psedge.protocol.errors import ModelError
from psedge.protocol.status import Evaluation
from psedge.worker.config import ModelConfig
from psedge.worker.datasets.source import LimitedSource, Source
from psedge.worker.label_check import LabelCheck
from psedge.worker.objectives import Loss, Metric

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def check_fit(
    model: nn.Module,
    source: Source,
    loss: Loss,
    metrics: Mapping[str, Metric],
    device: torch.device,
    config: ModelConfig,
) -> None:
    """Measure two samples, so that a mistake is told before a long training and not after it.

    Raises DataError, ConfigError or ModelError if labels, loss, metrics or model do not fit.
    """
    two = LimitedSource(source, 2)
    labels = LabelCheck(source, config)

    def checked(output: Tensor, target: Tensor) -> Tensor:
        labels.learn(output)
        labels.check(target)
        return loss(output, target)

    try:
        evaluate(
            model,
            two,
            checked,
            metrics,
            device,
            precision=config.precision,
            channels_last=config.channels_last,
        )
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ModelError(
            f"the model {config.factory} cannot be measured on {source.name}: {error}"
        ) from error


def evaluate(
    model: nn.Module,
    source: Source,
    loss: Loss,
    metrics: Mapping[str, Metric],
    device: torch.device,
    *,
    batch_size: int = 256,
    precision: str = "float32",
    channels_last: bool = False,
) -> Evaluation:
    """Means over every sample of `source`, each counted once.

    The model is put into evaluation mode for the time, and nothing of it changes. precision: of
    the forward pass; loss and metrics are computed in float32. The metric `accuracy` becomes the
    `accuracy` of the result. A diverged model's loss is None.
    Raises ConfigError or DataError if loss or metrics do not fit the outputs.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        sums = _sums(model, source, loss, metrics, device, batch_size, precision, channels_last)
    finally:
        for module, training in modes:
            module.training = training
    means = {name: total / len(source) for name, total in sums.items()}
    means = {name: mean for name, mean in means.items() if math.isfinite(mean)}
    return Evaluation(
        samples=len(source),
        loss=means.pop("", None),
        accuracy=means.pop("accuracy", None),
        metrics=means,
    )


@torch.no_grad()
def _sums(
    model: nn.Module,
    source: Source,
    loss: Loss,
    metrics: Mapping[str, Metric],
    device: torch.device,
    batch_size: int,
    precision: str,
    channels_last: bool,
) -> dict[str, float]:
    """Loss (under the name "") and metrics, each added up over the samples."""
    sums = dict.fromkeys(("", *metrics), 0.0)
    for start in range(0, len(source), batch_size):
        indices = np.arange(start, min(start + batch_size, len(source)), dtype=np.int64)
        inputs, targets = source.batch(indices, None)
        output = forward(model, inputs, device, precision, channels_last)
        if isinstance(output, Tensor) and output.is_floating_point():
            output = output.float()
        targets = targets.to(device)
        sums[""] += float(loss(output, targets)) * len(indices)
        for name, metric in metrics.items():
            sums[name] += float(metric(output, targets)) * len(indices)
    return sums


def forward(
    model: nn.Module, inputs: Tensor, device: torch.device, precision: str, channels_last: bool
) -> Tensor:
    """The model's output for a batch from the CPU.

    precision: `float32`, or the dtype that autocast computes in. channels_last: NHWC order in
    memory for batches of pictures.
    """
    inputs = inputs.to(device)
    if channels_last and inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    dtype = PRECISIONS.get(precision)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        output: Tensor = model(inputs)
        return output
