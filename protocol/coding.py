"""How a run's updates and parameters are coded, as servers and workers need to know it."""

from __future__ import annotations

from typing import Literal

import msgspec


class CodingSettings(msgspec.Struct, frozen=True):
    """The experiment's `[compression]` section with everything but `auto` resolved.

    push, pull: a codec's name, or `auto`. lossless: a stage's name, `none` or `auto`.
    chain: `worker` keeps the model as each worker has it, `shared` one published model for all.
    publish_every: updates between two publications of the shared chain.
    momentum_correction: of a worker's own momentum (Deep Gradient Compression), 0 for none.
    warmup_pushes: pushes of a worker over which `top-k` comes down to its density.
    """

    push: str = "identity"
    pull: str = "identity"
    lossless: str = "none"
    rounding: Literal["nearest", "stochastic"] = "nearest"
    chain: Literal["worker", "shared"] = "worker"
    publish_every: int = 1
    density: float = 0.01
    momentum_correction: float = 0.0
    warmup_pushes: int = 0
    rank: int = 4
    seed: int = 0
