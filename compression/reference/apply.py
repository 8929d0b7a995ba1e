"""One step of an update rule along a sum of payloads, as kernels/apply.h takes it, in NumPy.

Every element goes through the same float32 operations in the same order, so the results are the
same bits; `Step` says which they are. The gradient is summed for the whole vector first; the rule
then goes chunk by chunk, so that a chunk stays in the cache through its dozen passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from psedge.compression.reference.arrays import Bytes, Floats, check_payload, readable, writable
from psedge.compression.reference.dequantize import decode, decode_accumulate
from psedge.compression.step import ADAM_SETTINGS, SGD_SETTINGS

#: 128 KiB of float32: the five vectors of a step fit the second-level cache of a Pi or a PC.
CHUNK_ELEMENTS = 32768


def sgd(
    code: int,
    payloads: Sequence[Bytes],
    weights: Floats,
    dense: Floats | None,
    parameters: Floats,
    velocity: Floats | None,
    stops: NDArray[np.int64],
    settings: NDArray[np.float32],
    weight: float,
) -> None:
    """One step of SGD along dense + sum of weights * payloads; see `Step` for the operations.

    Raises TypeError or ValueError for arrays that do not fit each other.
    """
    _check_runs(stops, settings, len(SGD_SETTINGS), len(parameters))
    for changed in (parameters,) if velocity is None else (parameters, velocity):
        writable(changed, np.float32, len(parameters))
    with np.errstate(all="ignore"):
        gradient = _summed(code, payloads, weights, dense, len(parameters))
        for part, run in _parts(stops, settings):
            moved = None if velocity is None else velocity[part]
            _sgd(parameters[part], gradient[part], moved, run, np.float32(weight))


def adam(
    code: int,
    payloads: Sequence[Bytes],
    weights: Floats,
    dense: Floats | None,
    parameters: Floats,
    exp_avg: Floats,
    exp_avg_sq: Floats,
    stops: NDArray[np.int64],
    settings: NDArray[np.float32],
    weight: float,
    decoupled: bool,
) -> None:
    """One step of Adam, or of AdamW if `decoupled`. Raises what `sgd` does."""
    _check_runs(stops, settings, len(ADAM_SETTINGS), len(parameters))
    for changed in (parameters, exp_avg, exp_avg_sq):
        writable(changed, np.float32, len(parameters))
    with np.errstate(all="ignore"):
        gradient = _summed(code, payloads, weights, dense, len(parameters))
        for part, run in _parts(stops, settings):
            moments = exp_avg[part], exp_avg_sq[part]
            _adam(parameters[part], gradient[part], *moments, run, np.float32(weight), decoupled)


def _check_runs(
    stops: NDArray[np.int64], settings: NDArray[np.float32], columns: int, elements: int
) -> None:
    if settings.dtype != np.float32 or settings.ndim != 2 or not settings.flags.c_contiguous:
        raise TypeError("the settings are not a contiguous table of float32")
    if settings.shape[1] != columns:
        raise ValueError("the settings do not fit the rule")
    ends = [0, *readable(stops, np.int64, len(settings)).tolist()]
    if ends[-1] != elements or any(np.diff(ends) <= 0):
        raise ValueError("the runs do not rise to the parameters' length")


def _summed(
    code: int, payloads: Sequence[Bytes], weights: Floats, dense: Floats | None, elements: int
) -> Floats:
    """A new vector: the dense gradient, then the payloads in their order."""
    readable(weights, np.float32, len(payloads))
    for payload in payloads:
        check_payload(code, readable(payload, np.uint8, len(payload)), elements)
    total: Floats
    if dense is not None:
        total = readable(dense, np.float32, elements).copy()
    elif payloads:
        total = np.empty(elements, np.float32)
        decode(code, payloads[0], total)
        if weights[0] != 1:
            np.multiply(total, weights[0], out=total)
    else:
        total = np.zeros(elements, np.float32)
    for payload, weight in list(zip(payloads, weights, strict=True))[dense is None :]:
        decode_accumulate(code, payload, float(weight), total)
    return total


def _parts(
    stops: NDArray[np.int64], settings: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Chunks of the runs, with the settings of each."""
    start = 0
    for stop, run in zip(stops.tolist(), settings, strict=True):
        for first in range(start, stop, CHUNK_ELEMENTS):
            yield slice(first, min(first + CHUNK_ELEMENTS, stop)), run
        start = stop


def _sgd(
    parameters: Floats,
    gradient: Floats,
    velocity: Floats | None,
    run: NDArray[np.float32],
    weight: np.float32,
) -> None:
    """torch.optim.SGD's rule on one chunk; the gradient is overwritten."""
    rate, decay, momentum, undamped, nesterov = run
    scratch = np.empty_like(gradient)
    if decay:
        np.multiply(parameters, decay, out=scratch)
        np.add(gradient, scratch, out=gradient)
    np.multiply(gradient, weight, out=gradient)
    direction = gradient
    if velocity is not None:
        np.multiply(gradient, undamped, out=gradient)
        np.multiply(velocity, momentum, out=velocity)
        np.add(velocity, gradient, out=velocity)
        direction = velocity
        if nesterov:
            np.multiply(velocity, momentum, out=scratch)
            np.add(gradient, scratch, out=gradient)
            direction = gradient
    np.multiply(direction, rate, out=scratch)
    np.subtract(parameters, scratch, out=parameters)


def _adam(
    parameters: Floats,
    gradient: Floats,
    mean: Floats,
    square: Floats,
    run: NDArray[np.float32],
    weight: np.float32,
    decoupled: bool,
) -> None:
    """Adam (Kingma and Ba 2015); AdamW (Loshchilov and Hutter 2019) decays the parameters."""
    rate, decay, beta1, rest1, beta2, rest2, scale, eps = run
    scratch = np.empty_like(gradient)
    if decay and decoupled:
        np.multiply(parameters, decay * weight, out=scratch)
        np.subtract(parameters, scratch, out=parameters)
    elif decay:
        np.multiply(parameters, decay, out=scratch)
        np.add(gradient, scratch, out=gradient)
    np.multiply(gradient, gradient, out=scratch)
    np.multiply(scratch, rest2, out=scratch)
    np.multiply(square, beta2, out=square)
    np.add(square, scratch, out=square)
    np.multiply(gradient, rest1 * weight, out=gradient)
    np.multiply(mean, beta1, out=mean)
    np.add(mean, gradient, out=mean)
    np.sqrt(square, out=scratch)
    np.multiply(scratch, scale, out=scratch)
    np.add(scratch, eps, out=scratch)
    np.divide(mean, scratch, out=scratch)
    np.multiply(scratch, rate, out=scratch)
    np.subtract(parameters, scratch, out=parameters)
