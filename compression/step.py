"""One step of an update rule on a range of parameters, as decode-and-apply takes it."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

#: Columns of `Step.settings` for SGD and for Adam.
SGD_SETTINGS = ("rate", "decay", "momentum", "undamped", "nesterov")
ADAM_SETTINGS = ("rate", "decay", "beta1", "rest1", "beta2", "rest2", "scale", "eps")


class Step(msgspec.Struct, frozen=True):
    """What changes and by which rule; everything is float32 unless it says otherwise.

    parameters: changed in place. state: the rule's vectors, changed in place: `(velocity,)` or `()`
    for SGD, `(exp_avg, exp_avg_sq)` for Adam and AdamW.
    stops: int64 [runs], the end of each run of elements with equal settings, rising to the length
    of `parameters`. settings: [runs, columns], see SGD_SETTINGS and ADAM_SETTINGS; `undamped` is
    1 - dampening, `nesterov` 0 or 1; `rest` is 1 - beta, `scale` the second moment's bias
    correction 1 / sqrt(1 - beta2**t); the first's is part of `rate`, except in `decay` of AdamW,
    which is the factor rate * decay without it.
    weight: factor on this step's whole contribution, decay included, but not on Adam's second
    moment.

    SGD (torch.optim.SGD's rule), in this order of float32 operations, g being the summed gradient:
        g = g + p * decay   where decay is not 0
        g = g * weight
        with velocity:
            u = g * undamped
            v = v * momentum + u
            g = v   (nesterov: u + v * momentum)
        p = p - g * rate
    Adam (Kingma and Ba 2015):
        adam:  g = g + p * decay   where decay is not 0
        adamw: p = p - p * (decay * weight)   where decay is not 0
        v2 = v2 * beta2 + (g * g) * rest2
        m = m * beta1 + g * (rest1 * weight)
        p = p - (m / (sqrt(v2) * scale + eps)) * rate
    """

    rule: Literal["sgd", "adam", "adamw"]
    parameters: NDArray[np.float32]
    state: tuple[NDArray[np.float32], ...]
    stops: NDArray[np.int64]
    settings: NDArray[np.float32]
    weight: float = 1.0

    def part(self, start: int, stop: int) -> Step:
        """The same step on elements start..stop only."""
        if start == 0 and stop == len(self.parameters):
            return self
        first = int(np.searchsorted(self.stops, start, side="right"))
        last = int(np.searchsorted(self.stops, stop, side="left")) + 1
        if start >= stop:
            last = first
        return Step(
            self.rule,
            self.parameters[start:stop],
            tuple(vector[start:stop] for vector in self.state),
            np.minimum(self.stops[first:last], stop) - start,
            self.settings[first:last],
            self.weight,
        )
