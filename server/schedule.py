"""The learning rate as a function of samples.

A pure function of the settings and a count, never of wall-clock time or of a counter of its own:
a resumed run continues where it was, and every shard of a model computes the same factor.
"""

from __future__ import annotations

import math
from bisect import bisect_right

from psedge.protocol.shards import ScheduleSettings

#: Where `one-cycle` starts, and the share of the run in which it rises if none is given; both as
#: torch.optim.lr_scheduler.OneCycleLR has them.
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_RISE = 0.3


def factor(settings: ScheduleSettings, samples: int) -> float:
    """What every group's learning rate is multiplied by, for the step after `samples` samples.

    The shapes are those of MultiStepLR, CosineAnnealingLR and OneCycleLR in torch, with samples in
    place of steps. Warm-up is linear (Goyal et al. 2017); milestones count from the start of the
    run, the cosine from the end of warm-up. Past `total` the last value stays.
    """
    if settings.kind == "one-cycle":
        return _one_cycle(settings, samples)
    if samples < settings.warmup:
        return (samples + 1) / settings.warmup * _step(settings, samples)
    if settings.kind == "cosine":
        return _half_cosine(
            1.0, settings.final_factor, _share(samples, settings.warmup, settings.total)
        )
    return _step(settings, samples)


def _step(settings: ScheduleSettings, samples: int) -> float:
    if settings.kind != "step":
        return 1.0
    return settings.gamma ** bisect_right(settings.milestones, samples)


def _one_cycle(settings: ScheduleSettings, samples: int) -> float:
    """Super-convergence (Smith and Topin 2018): up along one half cosine, down along another."""
    peak = settings.warmup or round(settings.total * ONE_CYCLE_RISE)
    if samples < peak:
        return _half_cosine(ONE_CYCLE_START, 1.0, samples / peak)
    return _half_cosine(1.0, settings.final_factor, _share(samples, peak, settings.total))


def _share(samples: int, start: int, stop: int) -> float:
    """How much of start..stop lies behind, in [0, 1]."""
    return min(1.0, (samples - start) / (stop - start)) if stop > start else 1.0


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
