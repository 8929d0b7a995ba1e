"""What virtual workers compute: a tiny exact problem, replayed gradients, or the real thing.

Whatever it is, a step takes the virtual time that the worker's device needs for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from psedge.config import Experiment
from psedge.prepare import initial_state
from psedge.simulation.problem import IndexSource, Problem, ProblemStep
from psedge.supervisor.model_state import ModelState
from psedge.supervisor.setup import Evaluator
from psedge.work import Parts
from psedge.worker.feed import Batch
from psedge.worker.gradient import Step
from psedge.worker.objectives import cross_entropy

#: A megabyte of log is some ten of the problem's pushes.
LOG_FACTOR = 0.02

#: Receives the indices of the samples that go into a gradient.
Told = Callable[[NDArray[np.int64]], None]


class Work(Protocol):
    """model: where training starts. train_samples: in an epoch. evaluator: None measures nothing.

    model_factor: work per sample relative to ResNet-32 on CIFAR-10.
    log_factor: size of servers' log files relative to what the config says, as tiny models never
    fill those.
    """

    @property
    def model(self) -> ModelState: ...

    @property
    def train_samples(self) -> int: ...

    @property
    def evaluator(self) -> Evaluator | None: ...

    @property
    def model_factor(self) -> float: ...

    @property
    def log_factor(self) -> float: ...

    def parts(self, worker: int, told: Told) -> Parts:
        """What one worker computes on. worker: from 0, in the order of the config."""
        ...


class ProblemWork:
    """Proofs: the tiny problem of `problem.py`, its size and its samples as asked."""

    def __init__(self, experiment: Experiment, *, samples: int, rows: int = 16) -> None:
        self._seed, self._rows = experiment.seed, rows
        self.model = initial_state(experiment, Problem(rows, seed=experiment.seed))
        self.train_samples = samples
        self.evaluator = None
        self.model_factor = 1.0
        self.log_factor = LOG_FACTOR

    def parts(self, worker: int, told: Told) -> Parts:
        model = Problem(self._rows, seed=self._seed)
        step = ProblemStep(model, told, self._seed)
        return Parts(model, IndexSource(self.train_samples), cross_entropy, step)


class Timed:
    """A Step that charges its device for each batch.

    charge: receives seconds. batch_seconds: of a batch with so many samples.
    """

    def __init__(
        self, step: Step, charge: Callable[[float], None], batch_seconds: Callable[[int], float]
    ) -> None:
        self._step = step
        self._charge = charge
        self._batch_seconds = batch_seconds

    def __call__(self, batches: Sequence[Batch]) -> float:
        loss = self._step(batches)
        self._charge(sum(self._batch_seconds(batch.samples) for batch in batches))
        return loss

    def forward(self, inputs: Tensor) -> Tensor:
        return self._step.forward(inputs)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return self._step.loss(output, targets)
