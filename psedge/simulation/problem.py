"""A training problem for proofs: tiny, exact, and without a forward pass.

The loss of sample i is half the squared distance of the parameters to a point of its own, so that
the gradient of a batch is parameters minus the mean of its points: any subset of samples, any lag
and any loss of an update show in the numbers. A running mean and a counter stand for the buffers
that real models have.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from psedge.worker.feed import Batch

#: Points repeat after so many samples.
POINTS = 64
#: How far points are from their common centre, and that from where training begins.
SPREAD = 0.5
BUFFER_MOMENTUM = 0.1


class Problem(nn.Module):
    """Parameters: a matrix of `rows` x 32 and a bias of as many; buffers: a mean and a counter."""

    mean: Tensor
    steps: Tensor

    def __init__(self, rows: int = 16, columns: int = 32, seed: int = 0) -> None:
        super().__init__()
        draw = np.random.default_rng(seed)
        self.weight = nn.Parameter(torch.from_numpy(_normal(draw, rows, columns)))
        self.bias = nn.Parameter(torch.from_numpy(_normal(draw, rows)))
        self.register_buffer("mean", torch.zeros(rows))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.bias.expand(len(inputs), -1)


class IndexSource:
    """A data set whose samples are their own indices."""

    name = "indices"
    classes = None

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return self._samples

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(indices), torch.zeros(len(indices))


class ProblemStep:
    """Gradients of a `Problem`.

    told: receives the indices of each gradient's samples.
    """

    def __init__(
        self, model: Problem, told: Callable[[NDArray[np.int64]], None], seed: int = 0
    ) -> None:
        self._model = model
        self._told = told
        self._parameters = [model.weight, model.bias]
        elements = sum(parameter.numel() for parameter in self._parameters)
        self._points = points(elements, seed)
        self._gradient = np.zeros(elements, np.float32)
        at = 0
        for parameter in self._parameters:
            part = self._gradient[at : at + parameter.numel()]
            parameter.grad = torch.from_numpy(part).view(parameter.shape)
            at += parameter.numel()

    def __call__(self, batches: Sequence[Batch]) -> float:
        indices = np.concatenate([batch.inputs.numpy() for batch in batches])
        self._told(indices)
        share = np.bincount(indices % POINTS, minlength=POINTS).astype(np.float32) / len(indices)
        # NumPy on the tensors' memory: on so few elements torch takes several times as long.
        flat = np.concatenate([each.data.view(-1).numpy() for each in self._parameters])
        # No product of matrices: BLAS rounds differently from processor to processor.
        pull = (share[:, None] * self._points).sum(axis=0, dtype=np.float32)
        np.subtract(flat, pull, out=self._gradient)
        mean, steps = self._model.mean.numpy(), self._model.steps.numpy()
        mean += np.float32(BUFFER_MOMENTUM) * (self._gradient[0] - mean)
        steps += len(batches)
        return float(0.5 * np.square(self._gradient).sum())

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self._model(inputs)
        return output

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return output.mean()


@functools.lru_cache(maxsize=4)
def points(elements: int, seed: int) -> NDArray[np.float32]:
    """Where each sample pulls the parameters, [POINTS, elements]; read-only."""
    draw = np.random.default_rng([seed, 1])
    centre = draw.standard_normal(elements)
    around = SPREAD * draw.standard_normal((POINTS, elements))
    made = (centre + around).astype(np.float32)
    made.flags.writeable = False
    return made


def _normal(draw: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return draw.standard_normal(shape).astype(np.float32)
