"""Delay compensation (DC-ASGD, Zheng et al. 2017): what a gradient would be on newer parameters.

A gradient g was computed on the parameters P that its worker had; meanwhile others have moved them
to theta. To first order it would now be g + H (theta - P), and the paper takes strength * g * g,
element by element, for the Hessian's diagonal H.
"""

from __future__ import annotations

import numpy as np

from psedge.compression.codec import Float32Array

_CHUNK_ELEMENTS = 32768


def compensate(
    gradient: Float32Array, parameters: Float32Array, worker: Float32Array, strength: float
) -> None:
    """Add strength * g * g * (parameters - worker) to `gradient`, in place.

    worker: the parameters as the gradient's worker had them. All are float32 vectors of one
    length. A correction is never larger than the element it corrects: past that the expansion
    means nothing, and a wild gradient, whose square is wilder, must not become infinite.
    """
    scratch = np.empty(min(_CHUNK_ELEMENTS, len(gradient)), np.float32)
    factor = np.float32(strength)
    with np.errstate(all="ignore"):
        for start in range(0, len(gradient), _CHUNK_ELEMENTS):
            part = slice(start, start + _CHUNK_ELEMENTS)
            relative = scratch[: len(gradient[part])]
            np.subtract(parameters[part], worker[part], out=relative)
            np.multiply(relative, factor, out=relative)
            np.multiply(relative, gradient[part], out=relative)
            np.clip(relative, -1, 1, out=relative)
            np.multiply(relative, gradient[part], out=relative)
            np.add(gradient[part], relative, out=gradient[part])
