"""Types of the native kernels in compression/kernels/."""

import numpy as np
from numpy.typing import NDArray

def half_decode(halves: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
    """Expand the bits of halves; see `half_precision.from_half`."""

def half_encode(
    values: NDArray[np.float32],
    out: NDArray[np.uint16],
    dropped: NDArray[np.float32] | None = None,
) -> None:
    """Round to the bits of halves; see `half_precision.to_half`."""

def sgd(
    parameters: NDArray[np.float32],
    gradient: NDArray[np.float32],
    velocity: NDArray[np.float32] | None,
    rate: float,
    rates: NDArray[np.float32] | None,
    decay: float,
    decays: NDArray[np.float32] | None,
    weight: float,
    momentum: float,
    undamped: float,
    nesterov: bool,
) -> None:
    """One step of SGD; changes `parameters` and `velocity`, the momentum's state, in place.

    rates, decays: one number per element, in place of `rate` and `decay`. undamped: 1 - dampening.
    """
