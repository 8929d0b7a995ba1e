"""Rules of the `[compression]` section that its types cannot say."""

from __future__ import annotations

from collections.abc import Iterator

from psedge.config import Experiment


def coding(experiment: Experiment) -> Iterator[str]:
    """One sentence per broken rule, beginning with the section."""
    compression = experiment.compression
    for direction, codec in (("push", compression.push), ("pull", compression.pull)):
        if codec == "ecsq" and compression.lossless in ("none", "lz4"):
            yield (
                f'[compression] {direction} = "ecsq" needs an entropy coder, and lossless = '
                f'"{compression.lossless}" has none: take "auto", "zstd" or "deflate"'
            )
    if compression.warmup_pushes and compression.push != "top-k":
        yield (
            f'[compression] warmup_pushes = {compression.warmup_pushes} is for push = "top-k", '
            f'not "{compression.push}"'
        )
    if compression.momentum_correction:
        yield from _momentum_correction(experiment)


def _momentum_correction(experiment: Experiment) -> Iterator[str]:
    optimizer, sync = experiment.optimizer, experiment.sync
    problem = ""
    if experiment.compression.push != "top-k":
        problem = 'needs push = "top-k"'
    elif optimizer.factory:
        problem = "cannot take its momentum from an [optimizer] factory: name kind and momentum"
    elif optimizer.kind != "sgd" or optimizer.momentum == 0:
        problem = 'needs [optimizer] kind = "sgd" with momentum above 0'
    elif optimizer.nesterov or optimizer.dampening:
        problem = "knows plain momentum only: remove [optimizer] nesterov and dampening"
    elif sync.local_steps > 1 or sync.weight_prediction:
        problem = "cannot go with [sync] local_steps above 1 or weight_prediction"
    if problem:
        yield f"[compression] momentum_correction = true {problem}"
