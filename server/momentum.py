"""How much of SGD's momentum the servers have to add themselves when workers do not wait.

"Asynchrony begets momentum" (Mitliagkas et al. 2016): with W workers that push independently, a
gradient enters the model some W - 1 updates after the parameters it was computed on, and on
average that acts like a momentum of 1 - 1/W. A configured momentum on top of it is too much: the
model overshoots, which costs more accuracy than any codec does.
"""

from __future__ import annotations


def adapted(rate: float, momentum: float, workers: int) -> tuple[float, float]:
    """The rate and the momentum for one step of a rule that asks for `rate` and `momentum`.

    workers: how many push concurrently; one or fewer change nothing, and neither does a momentum
    of 1, which never fades. A momentum m remembers some 1 / (1 - m) updates, and asynchrony
    multiplies that by W; so to remember 1 / (1 - m) in all, the servers' own is 1 - W * (1 - m),
    or 0 if asynchrony alone remembers longer. The rate grows as the momentum shrinks: in the long
    run a gradient moves the model by rate / (1 - m), as configured.
    """
    if workers <= 1 or momentum >= 1:
        return rate, momentum
    left = max(0.0, 1.0 - workers * (1.0 - momentum))
    return rate * (1.0 - left) / (1.0 - momentum), left
