"""Types of the native kernels in compression/kernels/; `reference/` does the same in NumPy.

`code` is one of `codes`. Arrays are one-dimensional and C-contiguous; float arrays are
aligned to their elements, payloads need not be. Sizes are checked: ValueError or TypeError for
arrays that do not fit each other. The interpreter lock is released while a kernel runs.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

def encode(
    code: int,
    values: Floats,
    residual: Floats | None,
    payload: Bytes,
    stochastic: bool,
    seed: int,
    block: int,
    step: float,
) -> bool:
    """Encode values + residual into `payload`, leave the rest in `residual`; False: not finite.

    seed: uint32. block: index of the first bucket in the whole vector. step: ecsq's, in rms.
    """

def encode_delta(code: int, target: Floats, published: Floats, payload: Bytes, step: float) -> bool:
    """Encode target - published and add what was encoded to `published`."""

def decode(code: int, payload: Bytes, out: Floats) -> None: ...
def decode_accumulate(code: int, payload: Bytes, weight: float, out: Floats) -> None: ...
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
    """One step of SGD along dense + sum of weights * payloads; see `Step` for the operations."""

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
    """One step of Adam, or of AdamW if `decoupled`."""

def sample_threshold(
    values: Floats,
    residual: Floats,
    velocity: Floats | None,
    momentum: float,
    density: float,
    first: int,
    stride: int,
) -> float:
    """A threshold for `select` that about `density` of the values exceed.

    It is estimated from every `stride`-th line of 16 values, from line `first` on.
    """

def select(
    values: Floats,
    residual: Floats,
    velocity: Floats | None,
    momentum: float,
    threshold: float,
    indices: NDArray[np.uint32],
    picked: Floats,
) -> tuple[int, bool]:
    """Add values to `residual` and move what is larger than `threshold` out of it.

    With velocity: velocity = momentum * velocity + values, and that is added; it is cleared where
    an element is moved out. indices, picked: receive rising positions and values, as many as they
    have room for; what comes after that stays in `residual`. Returns how many there are, and
    whether all was finite; a bucket that is not finite is left as it was.
    """

def select_bins(
    values: Floats,
    residual: Floats,
    stops: NDArray[np.int64],
    totals: NDArray[np.float64],
    bins: NDArray[np.int64],
    indices: NDArray[np.uint32],
    picked: Floats,
) -> tuple[int, bool]:
    """AdaComp's selection: add values to `residual`, move out what a bin's newest values push up.

    A bin is the part of a bucket that lies in one tensor; stops: where each tensor ends. totals,
    bins: the sum of each tensor's largest magnitudes per bin, and of how many bins, are added to
    them. Other arguments and what is returned: as in `select`.
    """

def sparse_encode(
    indices: NDArray[np.uint32], picked: Floats, residual: Floats | None, payload: Bytes
) -> int:
    """Pack picked values at rising indices; rounding errors go to `residual`. Returns its bytes."""

def sparse_check(payload: Bytes, elements: int) -> float:
    """A bound on the magnitudes in a payload; -1 if it is malformed."""

def sparse_accumulate(payload: Bytes, weight: float, out: Floats) -> None: ...
def signs_encode(
    indices: NDArray[np.uint32],
    picked: Floats,
    stops: NDArray[np.int64],
    scales: NDArray[np.uint16],
    residual: Floats | None,
    payload: Bytes,
) -> int:
    """Pack the signs of picked values at rising indices; the rest goes to `residual`.

    stops: where each tensor ends. scales: each tensor's magnitude, upper halves of float32.
    Returns the payload's bytes.
    """

def signs_check(payload: Bytes, stops: NDArray[np.int64]) -> float:
    """The largest magnitude in a payload, infinite for NaN too; -1 if it is malformed."""

def signs_accumulate(
    payload: Bytes, stops: NDArray[np.int64], weight: float, out: Floats
) -> None: ...
def digest(values: Floats) -> int:
    """64 bits that differ, nearly always, where any bit of the values does."""

def instruction_sets() -> list[str]:
    """Those that this processor has, the best last."""

def use_instruction_set(name: str) -> None:
    """Run all kernels for this set from now on; for tests and measurements."""
