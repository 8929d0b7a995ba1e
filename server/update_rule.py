"""The update rules: SGD, Adam and AdamW on a slice of the flat parameter vector, in NumPy.

The results equal torch.optim's on the same gradients, to float32 tolerance. A step is a dozen
passes over memory, so it goes chunk by chunk: each chunk's parameters, gradient and state stay in
the cache from the first pass to the last, and nothing is allocated. SGD, the usual rule, takes one
pass with the native kernel where that is built, to the same bits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from psedge.compression import native
from psedge.compression.codec import Float32Array
from psedge.protocol.errors import FrameError
from psedge.protocol.shards import GroupSettings, OptimizerSettings, Segment

#: 128 KiB of float32: the five vectors of a step fit the second-level cache of a Pi or a PC.
CHUNK_ELEMENTS = 32768

#: The native kernel passes over memory once, so chunks need not stay in a cache; fewer calls count.
NATIVE_CHUNKS = 8


@dataclass(frozen=True, slots=True)
class _Piece:
    """A chunk whose parameters share all settings but learning rate and weight decay.

    lr, weight_decay: a number, or one per element where groups meet within the chunk. So many
    small groups, such as biases without decay, cost no more than one.
    """

    start: int
    stop: int
    settings: GroupSettings
    lr: float | Float32Array
    weight_decay: float | Float32Array
    decays: bool


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
        self._rule = settings.rule
        natively = settings.rule == "sgd" and native.NATIVE
        chunk = CHUNK_ELEMENTS * (NATIVE_CHUNKS if natively else 1)
        self._pieces = tuple(_pieces(settings.groups, segments, chunk))
        self._scratch: Float32Array = np.empty(min(chunk, elements), dtype=np.float32)
        self._rates: Float32Array = np.empty(min(chunk, elements), dtype=np.float32)

    def apply(
        self,
        parameters: Float32Array,
        gradient: Float32Array,
        lr_factor: float,
        weight: float = 1.0,
    ) -> None:
        """Take one step: change `parameters` and `state` in place; `gradient` may be overwritten.

        parameters, gradient: C-contiguous float32 vectors of the shard's length.
        lr_factor: the schedule's factor on every group's learning rate.
        weight: factor on this step's whole contribution, decay included. Adam's second moment is
        left out of it: it would cancel the factor.
        """
        assert len(parameters) == len(gradient) == self._elements
        self.steps += 1
        step = self._adam
        if self._rule == "sgd":
            step = self._sgd_natively if native.NATIVE else self._sgd
        with np.errstate(all="ignore"):
            for piece in self._pieces:
                part = slice(piece.start, piece.stop)
                step(piece, parameters[part], gradient[part], lr_factor, weight)

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
        for piece in self._pieces:
            part = slice(piece.start, piece.stop)
            fading = piece.settings.momentum
            reach = sum(fading**update for update in range(1, updates + 1))
            if piece.settings.nesterov:
                reach *= fading
            scratch = self._scratch[: piece.stop - piece.start]
            np.multiply(velocity[part], self._rate(piece, lr_factor * reach), out=scratch)
            np.subtract(ahead[part], scratch, out=ahead[part])
        return ahead

    def _sgd(
        self,
        piece: _Piece,
        parameters: Float32Array,
        gradient: Float32Array,
        lr_factor: float,
        weight: float,
    ) -> None:
        settings = piece.settings
        scratch = self._scratch[: len(parameters)]
        if piece.decays:
            np.multiply(parameters, piece.weight_decay, out=scratch)
            np.add(gradient, scratch, out=gradient)
        if weight != 1.0:
            np.multiply(gradient, weight, out=gradient)
        direction = gradient
        if settings.momentum:
            momentum = self.state["momentum"][piece.start : piece.stop]
            np.multiply(momentum, settings.momentum, out=momentum)
            # The first gradient enters undamped, as in torch.
            if settings.dampening and self.steps > 1:
                np.multiply(gradient, 1 - settings.dampening, out=gradient)
            np.add(momentum, gradient, out=momentum)
            direction = momentum
            if settings.nesterov:
                np.multiply(momentum, settings.momentum, out=scratch)
                np.add(gradient, scratch, out=gradient)
                direction = gradient
        np.multiply(direction, self._rate(piece, lr_factor), out=scratch)
        np.subtract(parameters, scratch, out=parameters)

    def _sgd_natively(
        self,
        piece: _Piece,
        parameters: Float32Array,
        gradient: Float32Array,
        lr_factor: float,
        weight: float,
    ) -> None:
        settings = piece.settings
        rate = self._rate(piece, lr_factor)
        decay = piece.weight_decay
        momentum = None
        if settings.momentum:
            momentum = self.state["momentum"][piece.start : piece.stop]
        native.sgd(
            parameters,
            gradient,
            momentum,
            0.0 if isinstance(rate, np.ndarray) else rate,
            rate if isinstance(rate, np.ndarray) else None,
            0.0 if isinstance(decay, np.ndarray) else decay,
            decay if isinstance(decay, np.ndarray) else None,
            weight,
            settings.momentum,
            1 - settings.dampening if self.steps > 1 else 1.0,
            settings.nesterov,
        )

    def _adam(
        self,
        piece: _Piece,
        parameters: Float32Array,
        gradient: Float32Array,
        lr_factor: float,
        weight: float,
    ) -> None:
        """Adam (Kingma and Ba 2015); AdamW (Loshchilov and Hutter 2019) decays the parameters."""
        beta1, beta2 = piece.settings.betas
        scratch = self._scratch[: len(parameters)]
        mean = self.state["exp_avg"][piece.start : piece.stop]
        square = self.state["exp_avg_sq"][piece.start : piece.stop]
        if piece.decays:
            np.multiply(parameters, piece.weight_decay, out=scratch)
            if self._rule == "adam":
                np.add(gradient, scratch, out=gradient)
            else:
                np.multiply(scratch, self._rate(piece, lr_factor * weight), out=scratch)
                np.subtract(parameters, scratch, out=parameters)
        np.multiply(gradient, gradient, out=scratch)
        np.multiply(scratch, 1 - beta2, out=scratch)
        np.multiply(square, beta2, out=square)
        np.add(square, scratch, out=square)
        np.multiply(gradient, (1 - beta1) * weight, out=gradient)
        np.multiply(mean, beta1, out=mean)
        np.add(mean, gradient, out=mean)
        np.sqrt(square, out=scratch)
        np.multiply(scratch, 1 / math.sqrt(1 - beta2**self.steps), out=scratch)
        np.add(scratch, piece.settings.eps, out=scratch)
        np.divide(mean, scratch, out=scratch)
        rate = self._rate(piece, lr_factor / (1 - beta1**self.steps))
        np.multiply(scratch, rate, out=scratch)
        np.subtract(parameters, scratch, out=parameters)

    def _rate(self, piece: _Piece, lr_factor: float) -> float | Float32Array:
        if isinstance(piece.lr, float):
            return piece.lr * lr_factor
        return np.multiply(piece.lr, lr_factor, out=self._rates[: len(piece.lr)])


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


def _pieces(
    groups: Sequence[GroupSettings], segments: Sequence[Segment], chunk: int
) -> Iterator[_Piece]:
    """Chunks of neighbouring segments that differ at most in learning rate and weight decay."""
    alike = itertools.groupby(
        segments,
        key=lambda segment: msgspec.structs.replace(
            groups[segment.group], lr=0.0, weight_decay=0.0
        ),
    )
    for settings, run in alike:
        members = list(run)
        for start in range(members[0].start, members[-1].stop, chunk):
            stop = min(start + chunk, members[-1].stop)
            inside = [
                Segment(max(start, segment.start), min(stop, segment.stop), segment.group)
                for segment in members
                if segment.start < stop and start < segment.stop
            ]
            lr = _per_element([groups[segment.group].lr for segment in inside], inside)
            decay = _per_element([groups[segment.group].weight_decay for segment in inside], inside)
            yield _Piece(start, stop, settings, lr, decay, decays=bool(np.any(decay)))


def _per_element(values: Sequence[float], segments: Sequence[Segment]) -> float | Float32Array:
    """One value per element of the segments, or the only value there is."""
    if len(set(values)) == 1:
        return float(values[0])
    lengths = [segment.stop - segment.start for segment in segments]
    return np.repeat(np.array(values, dtype=np.float32), lengths)
