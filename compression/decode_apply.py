"""Steps of an update rule along payloads: what every codec's `decode_apply` comes down to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psedge.compression.codec import Bytes, Codec, Float32Array
from psedge.compression.codes import FLOAT32
from psedge.compression.native import kernels
from psedge.compression.step import Step
from psedge.protocol.layout import Slice


def apply_payloads(
    code: int,
    payloads: Sequence[Bytes],
    weights: Sequence[float],
    dense: Float32Array | None,
    step: Step,
) -> None:
    """Take `step` along dense + sum of weights * payloads in one pass over memory.

    code: the payloads' kernel code, one of `codes`. payloads: checked, each of all the
    step's parameters. dense: float32 as long as they are, not changed; None for none. Raises
    ValueError for lengths that do not fit.
    """
    gradient = (code, payloads, np.array(weights, dtype=np.float32), dense)
    runs = (step.stops, step.settings, step.weight)
    if step.rule == "sgd":
        velocity = step.state[0] if step.state else None
        kernels.sgd(*gradient, step.parameters, velocity, *runs)
    else:
        mean, square = step.state
        kernels.adam(*gradient, step.parameters, mean, square, *runs, step.rule == "adamw")


def apply_dense(gradient: Float32Array, step: Step) -> None:
    """Take `step` along a gradient that is float32 already; it is not changed."""
    apply_payloads(FLOAT32, (), (), gradient, step)


def apply_decoded(
    codec: Codec, payloads: Sequence[Bytes], weights: Sequence[float], piece: Slice, step: Step
) -> None:
    """Take `step` along payloads that no kernel can decode in passing: they are summed first."""
    total = np.zeros(piece.coded, dtype=np.float32)
    for payload, weight in zip(payloads, weights, strict=True):
        codec.decode_accumulate(payload, piece, weight, total)
    apply_dense(total, step)
