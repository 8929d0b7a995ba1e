"""How many samples a user's own loop put through the model since the last step.

Servers weight gradients by samples, and a loop of three changed lines should not have to count
them. The first dimension of the first tensor of each training forward pass is taken for the
batch; a loop where it is not passes its own number to `step`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from psedge.protocol.errors import ModelError


class BatchCount:
    """Counts forward passes in training mode and with gradients, until `remove`.

    Raises ModelError for what is no model.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            raise ModelError(f"the model must be a torch.nn.Module, not {type(model).__name__}")
        self._samples = 0
        self._handle = model.register_forward_pre_hook(self._count, with_kwargs=True)

    def take(self) -> int:
        """Samples since the last call; 0 if the model was not called."""
        samples, self._samples = self._samples, 0
        return samples

    def remove(self) -> None:
        """Take the hook off the model."""
        self._handle.remove()

    def _count(self, model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if model.training and torch.is_grad_enabled():
            first = next(_tensors((*arguments, *named.values())), None)
            if first is not None:
                self._samples += first.shape[0] if first.ndim else 1


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
