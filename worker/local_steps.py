"""Several optimizer steps on the worker, pushed as one change.

The pseudo-gradient is start minus end, so that a server's plain step along it with rate 1 lands
on the average of the workers (Stich 2019, "Local SGD"; Douillard et al. 2023, "DiLoCo"). The
optimizer's own state stays on the worker from round to round.
"""

from __future__ import annotations

import inspect
from functools import partial

import numpy as np
import torch

from psedge.protocol.shards import LocalOptimizer
from psedge.worker.binding import Binding
from psedge.worker.torch_optimizer import torch_optimizer


class LocalSteps:
    """One worker's own optimizer. `begin`, any number of `step`, `finish`; then again."""

    def __init__(self, binding: Binding, local: LocalOptimizer) -> None:
        self._binding = binding
        self._optimizer = torch_optimizer(local, list(binding.trained))
        # torch wraps a step in hooks and profiling, which take longer than that of a small model.
        self._optimizer_step = partial(inspect.unwrap(type(self._optimizer).step), self._optimizer)
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._start = np.zeros_like(binding.parameters)
        self._received = np.zeros_like(binding.parameters)

    def begin(self) -> None:
        """Remember the model as it is: rounded to its own dtypes, as `finish` will read it."""
        np.copyto(self._received, self._binding.parameters)
        self._binding.read_parameters()
        np.copyto(self._start, self._binding.parameters)

    def step(self, lr_factor: float) -> None:
        """Step along the parameters' `grad`, at the schedule's factor."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * lr_factor
        with torch.no_grad():
            self._optimizer_step()

    def finish(self) -> None:
        """Leave start minus end in the binding's gradients.

        The binding's parameters are again what the servers sent last, which is what they send the
        difference to.
        """
        self._binding.read_parameters()
        np.subtract(self._start, self._binding.parameters, out=self._binding.gradients)
        np.copyto(self._binding.parameters, self._received)
