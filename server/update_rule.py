"""The update rules: SGD, Adam and AdamW on a slice of the flat parameter vector.

The results equal torch.optim's on the same gradients, to float32 tolerance. What a step does to
each element is described by `Step` and done by the kernels in one pass over memory, decoding the
gradient on the way; what is decided here is the settings that the step has for each element.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from psedge.compression import coder
from psedge.compression.codec import Float32Array
from psedge.compression.coder import Opened
from psedge.compression.decode_apply import apply_dense
from psedge.compression.step import Step
from psedge.protocol.errors import FrameError
from psedge.protocol.shards import GroupSettings, OptimizerSettings, Segment
from psedge.server.delay_compensation import compensate
from psedge.server.momentum import adapted


class UpdateRule:
    """Applies gradients to one shard.

    state: the optimizer's vectors by name, float32, each as long as the shard: `momentum` for SGD
    with momentum; `exp_avg`, `exp_avg_sq` for Adam and AdamW.
    steps: how many times `apply` was called.
    """

    def __init__(
        self, settings: OptimizerSettings, segments: tuple[Segment, ...], elements: int
    ) -> None:
        """Raises FrameError if the segments do not cover 0..elements exactly or name no group."""
        _check(settings, segments, elements)
        self.steps = 0
        self.state: dict[str, Float32Array] = {
            name: np.zeros(elements, dtype=np.float32) for name in _state_names(settings)
        }
        self._elements = elements
        self._settings = settings
        runs = _runs(settings.groups, segments)
        self._run_groups: NDArray[np.int64] = np.array([group for _, group in runs], np.int64)
        #: The latest step's settings, and what those of SGD depend on.
        self._rows = np.empty((0, 0), np.float32)
        self._rows_key: tuple[float, int, bool] | None = None
        self._stops: NDArray[np.int64] = np.array([stop for stop, _ in runs], np.int64)

    def apply(
        self,
        parameters: Float32Array,
        opened: Sequence[Opened],
        weights: Sequence[float],
        *,
        lr_factor: float,
        weight: float = 1.0,
        dense: Float32Array | None = None,
        workers: int = 1,
        compensation: Float32Array | None = None,
    ) -> None:
        """Take one step along dense + sum of weights * opened: change `parameters` and `state`.

        parameters: C-contiguous float32 vector of the shard's length. opened: checked payloads of
        the whole shard; there is at least one if there is no `dense`. dense: a float32 gradient to
        begin the sum with; it may be overwritten. lr_factor: the schedule's factor on every group's
        learning rate. weight: factor on this step's whole contribution, decay included. Adam's
        second moment is left out of it: it would cancel the factor.

        workers: how many push concurrently, for the settings' momentum adaptation.
        compensation: the parameters that the gradient was computed on, for their delay
        compensation; None for none.
        """
        assert len(parameters) == self._elements
        self.steps += 1
        if not self._elements:
            return
        step = self._step(parameters, lr_factor, weight, workers)
        strength = self._settings.delay_compensation
        if dense is None and (compensation is None or not strength):
            coder.apply(opened, weights, step)
            return
        gradient = np.zeros_like(parameters) if dense is None else dense
        for payload, share in zip(opened, weights, strict=True):
            payload.decode_accumulate(share, gradient)
        if compensation is not None and strength:
            compensate(gradient, parameters, compensation, strength)
        apply_dense(gradient, step)

    def predicted(self, parameters: Float32Array, updates: int, lr_factor: float) -> Float32Array:
        """Where momentum alone will have moved `parameters` after so many further updates.

        Linear weight prediction (Kosson et al. 2021, "Pipelined Backpropagation at Scale"): the
        velocity fades by the momentum with each update, so it moves by a geometric sum of it. A
        new array; equal to `parameters` for a rule without momentum.
        """
        ahead: Float32Array = parameters.copy()
        velocity = self.state.get("momentum")
        if velocity is None:
            return ahead
        start = 0
        for stop, index in zip(self._stops.tolist(), self._run_groups.tolist(), strict=True):
            group = self._settings.groups[index]
            reach = sum(group.momentum**update for update in range(1, updates + 1))
            if group.nesterov:
                reach *= group.momentum
            ahead[start:stop] -= velocity[start:stop] * np.float32(group.lr * lr_factor * reach)
            start = stop
        return ahead

    def _step(
        self, parameters: Float32Array, lr_factor: float, weight: float, workers: int
    ) -> Step:
        rule = self._settings.rule
        if not self._settings.momentum_adaptation:
            workers = 1
        key = (lr_factor, workers, self.steps > 1)
        if rule != "sgd" or self._rows_key != key:
            rows = [
                self._sgd_row(group, lr_factor, workers)
                if rule == "sgd"
                else self._adam_row(group, lr_factor)
                for group in self._settings.groups
            ]
            self._rows_key = key
            self._rows = np.array(rows, dtype=np.float32)[self._run_groups]
        settings = self._rows
        return Step(rule, parameters, tuple(self.state.values()), self._stops, settings, weight)

    def _sgd_row(self, group: GroupSettings, lr_factor: float, workers: int) -> tuple[float, ...]:
        """The settings in the order of SGD_SETTINGS."""
        rate, momentum = adapted(group.lr * lr_factor, group.momentum, workers)
        # The first gradient enters undamped, as in torch.
        damps = group.momentum > 0 and self.steps > 1
        undamped = 1 - group.dampening if damps else 1.0
        return rate, group.weight_decay, momentum, undamped, float(group.nesterov)

    def _adam_row(self, group: GroupSettings, lr_factor: float) -> tuple[float, ...]:
        """The settings in the order of ADAM_SETTINGS."""
        beta1, beta2 = group.betas
        rate = group.lr * lr_factor
        decay = group.weight_decay * (rate if self._settings.rule == "adamw" else 1.0)
        rate /= 1 - beta1**self.steps
        scale = 1 / math.sqrt(1 - beta2**self.steps)
        return rate, decay, beta1, 1 - beta1, beta2, 1 - beta2, scale, group.eps


def _check(settings: OptimizerSettings, segments: Sequence[Segment], elements: int) -> None:
    edges = [0, *(segment.stop for segment in segments)]
    starts = [*(segment.start for segment in segments), elements]
    if edges != starts or any(late <= early for early, late in itertools.pairwise(edges)):
        raise FrameError(f"the segments of a shard of {elements} elements do not cover it")
    if any(not 0 <= segment.group < len(settings.groups) for segment in segments):
        raise FrameError(f"a segment names a group that is not among the {len(settings.groups)}")


def _state_names(settings: OptimizerSettings) -> tuple[str, ...]:
    if settings.rule != "sgd":
        return ("exp_avg", "exp_avg_sq")
    return ("momentum",) if any(group.momentum for group in settings.groups) else ()


def _runs(groups: Sequence[GroupSettings], segments: Sequence[Segment]) -> list[tuple[int, int]]:
    """Where each run of neighbouring elements with equal settings ends, and its group."""
    first_equal = [groups.index(group) for group in groups]
    alike = itertools.groupby(segments, key=lambda segment: first_equal[segment.group])
    return [(list(run)[-1].stop, group) for group, run in alike]
