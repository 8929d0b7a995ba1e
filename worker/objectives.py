"""What is minimised and what is measured: losses and metrics by the names that configs use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from psedge.protocol.errors import ConfigError, DataError, PsedgeError
from psedge.worker.config import ModelConfig
from psedge.worker.imports import AllowList, resolve

#: Of (output, target); returns the mean over the batch, a tensor of no axes.
Loss = Callable[[Tensor, Tensor], Tensor]

#: Of (output, target); returns the batch's mean as one number or a tensor of no axes.
Metric = Callable[[Tensor, Tensor], "Tensor | float"]

#: Labels of this value take no part in cross entropy, as in torch.
IGNORED_LABEL = -100


def cross_entropy(output: Tensor, target: Tensor, **options: Any) -> Tensor:
    """torch's cross entropy of logits [batch, classes, ...] and labels or class shares.

    options: as for torch.nn.functional.cross_entropy; `weight` may be a list of numbers.
    """
    if "weight" in options:
        options["weight"] = torch.as_tensor(options["weight"]).to(output)
    return functional.cross_entropy(output, target, **options)


def bce_with_logits(output: Tensor, target: Tensor, **options: Any) -> Tensor:
    """Binary cross entropy of logits and 0/1 targets; [batch, 1] goes with [batch]."""
    if "pos_weight" in options:
        options["pos_weight"] = torch.as_tensor(options["pos_weight"]).to(output)
    return functional.binary_cross_entropy_with_logits(output, _like(target, output), **options)


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error; [batch, 1] goes with [batch]."""
    return functional.mse_loss(output, _like(target, output))


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Share of right answers, 0..1.

    The largest of the logits along axis 1 is compared with the label, where it is not an ignored
    one, or with the largest of the class shares. With a single logit it is `binary_accuracy`.
    """
    if output.ndim == 1 or output.shape[1] == 1:
        return binary_accuracy(output, target)
    answers = output.argmax(dim=1)
    if target.shape == output.shape:
        return (answers == target.argmax(dim=1)).float().mean()
    counted = target != IGNORED_LABEL
    right = (answers == _like(target, answers)) & counted
    return right.sum() / counted.sum().clamp(min=1)


def binary_accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Share of logits whose sign agrees with their 0/1 target."""
    return ((output > 0) == (_like(target, output) > 0.5)).float().mean()


LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross-entropy": cross_entropy,
    "bce-with-logits": bce_with_logits,
    "mse": mse,
}

METRICS: dict[str, Metric] = {"accuracy": accuracy, "binary-accuracy": binary_accuracy}


def resolve_loss(config: ModelConfig, allow: AllowList) -> Loss:
    """The loss of a config with its arguments bound; a class is made into an object with them.

    Raises ConfigError if there is no such loss, or it does not take its arguments.
    """
    found = resolve(config.loss, LOSSES, allow, "loss")
    if not isinstance(found, type):
        return _named_errors(config, functools.partial(found, **config.loss_arguments))
    try:
        return _named_errors(config, found(**config.loss_arguments))
    except TypeError as error:
        raise ConfigError(f"model.loss_arguments do not fit {config.loss}: {error}") from error


def resolve_metrics(config: ModelConfig, allow: AllowList) -> Mapping[str, Metric]:
    """The metrics of a config by name, with `accuracy` understood as the loss means it.

    It is on the list by default: `bce-with-logits` makes it `binary_accuracy`, and with `mse` it
    is left out, for a squared error knows no right and wrong answers.
    Raises ConfigError if there is no such metric.
    """
    metrics = {name: resolve(name, METRICS, allow, "metric") for name in config.metrics}
    if config.loss == "mse":
        metrics.pop("accuracy", None)
    elif config.loss == "bce-with-logits" and "accuracy" in metrics:
        metrics["accuracy"] = binary_accuracy
    return metrics


def _named_errors(config: ModelConfig, loss: Loss) -> Loss:
    """The loss, whose complaints about shapes and arguments name it to its user."""

    def measured(output: Tensor, target: Tensor) -> Tensor:
        try:
            return loss(output, target)
        except PsedgeError:
            raise
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            raise ConfigError(
                f"model.loss {config.loss} cannot compare an output {_described(output)} with a "
                f"target {_described(target)}: {error}"
            ) from error

    return measured


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"of type {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


def _like(target: Tensor, output: Tensor) -> Tensor:
    """The target in the output's shape and dtype, never broadcast: that would hide a mistake."""
    if target.numel() != output.numel() or target.shape[0] != output.shape[0]:
        raise DataError(
            f"targets {list(target.shape)} do not fit outputs {list(output.shape)}; "
            "there must be one for each"
        )
    return target.reshape(output.shape).to(output.dtype)
