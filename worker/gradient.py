"""One gradient: forward and backward over a step's batches, averaged over all their samples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from psedge.protocol.errors import DataError, TrainingError
from psedge.worker.feed import Batch

Loss = Callable[[Tensor, Tensor], Tensor]


class Step(Protocol):
    """Computes gradients of a model."""

    def __call__(self, batches: Sequence[Batch]) -> float:
        """Leave the mean gradient over all samples in the parameters' `grad`; returns the loss."""
        ...

    def forward(self, inputs: Tensor) -> Tensor:
        """The model's output for one batch."""
        ...

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of one batch."""
        ...


Precision = Literal["float32", "bfloat16", "float16"]

#: First scale of a float16 loss, and after how many good steps it is doubled again
#: (Micikevicius et al. 2018, "Mixed precision training").
FIRST_SCALE = 2.0**14
SCALE_GROWTH_STEPS = 1000


class GradientStep:
    """Leaves the mean gradient of a step in the parameters' `grad`, clipped if asked.

    loss: returns the mean over its batch. With float16 the loss is scaled up so that small
    gradients survive, and a step that overflows is taken again at half the scale.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        device: torch.device,
        *,
        precision: Precision = "float32",
        channels_last: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        self._model = model
        self._loss = loss
        self._device = device
        self._precision = precision
        self._channels_last = channels_last
        self._clip_norm = clip_norm
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self._scale = FIRST_SCALE if precision == "float16" else 1.0
        self._good_steps = 0
        if channels_last:
            # The hint is an overload that the stubs give for keyword use only.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, batches: Sequence[Batch]) -> float:
        """The mean loss over all samples of `batches`.

        Raises DataError for labels the loss does not take, TrainingError when memory runs out.
        """
        self._model.train()
        with self._clear_errors():
            loss = self._backward(batches)
            while self._scale > 1.0 and not self._finite() and _is_finite(loss):
                self._scale = max(1.0, self._scale / 2)
                self._good_steps = 0
                loss = self._backward(batches)
        if self._precision == "float16":
            self._unscale()
        if self._clip_norm is not None:
            self._clip(self._clip_norm)
        return loss

    def forward(self, inputs: Tensor) -> Tensor:
        """The model's output for one batch, on the device, under autocast."""
        inputs = inputs.to(self._device, non_blocking=True)
        if self._channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            output: Tensor = self._model(inputs)
        return output

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of one batch, under autocast."""
        targets = targets.to(self._device, non_blocking=True)
        with self._autocast():
            return self._loss(output, targets)

    def _backward(self, batches: Sequence[Batch]) -> float:
        for parameter in self._parameters:
            parameter.grad = None
        samples = sum(batch.samples for batch in batches)
        total = 0.0
        for batch in batches:
            share = batch.samples / samples
            with _running_statistics(self._norms if batch.samples == 1 else ()):
                loss = self.loss(self.forward(batch.inputs), batch.targets)
            weight = share * self._scale
            (loss if weight == 1.0 else loss * weight).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach()) * share
        return total

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self._precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=getattr(torch, self._precision))

    def _gradients(self) -> list[Tensor]:
        for parameter in self._parameters:
            if parameter.grad is not None and parameter.grad.layout != torch.strided:
                parameter.grad = parameter.grad.to_dense()
        return [p.grad for p in self._parameters if p.grad is not None]

    def _finite(self) -> bool:
        norms = torch._foreach_norm(self._gradients())
        return bool(torch.isfinite(torch.stack([norm.float() for norm in norms])).all())

    def _unscale(self) -> None:
        torch._foreach_div_(self._gradients(), self._scale)
        self._good_steps += 1
        if self._good_steps >= SCALE_GROWTH_STEPS:
            self._scale, self._good_steps = self._scale * 2, 0

    def _clip(self, norm: float) -> None:
        self._gradients()
        torch.nn.utils.clip_grad_norm_(self._parameters, norm)

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except IndexError as error:
            raise DataError(
                f"the model or its loss got a label or index that is out of range: {error}"
            ) from error
        except torch.cuda.OutOfMemoryError as error:
            raise TrainingError(
                f"{self._device} ran out of memory: lower data.batch_size, and raise "
                "worker.accumulate to keep the same step"
            ) from error


def _is_finite(value: float) -> bool:
    return value - value == 0.0


@contextlib.contextmanager
def _running_statistics(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Batch normalisation by running statistics: one sample has no variance of its own."""
    training = [module for module in norms if module.training]
    for module in training:
        module.eval()
    try:
        yield
    finally:
        for module in training:
            module.train()
