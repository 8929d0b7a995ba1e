"""What an experiment's optimizer, schedule and sync sections mean to a shard.

A config speaks of epochs, name patterns and defaults; a shard wants samples, groups by number and
runs of elements in its own coordinates. Everything is resolved here, once, where the run starts.
"""

from __future__ import annotations

import difflib
import itertools
from fnmatch import fnmatchcase

import msgspec

from psedge.protocol.errors import ConfigError
from psedge.protocol.layout import Layout, TensorSpec
from psedge.protocol.shards import (
    GroupSettings,
    OptimizerSettings,
    ScheduleSettings,
    Segment,
    SyncSettings,
)
from psedge.server.config import GroupConfig, OptimizerConfig, ScheduleConfig, SyncConfig


def settings_of(
    config: OptimizerConfig, layout: Layout
) -> tuple[OptimizerSettings, tuple[int, ...]]:
    """The groups, and for each parameter tensor, in the layout's order, which group it is in.

    Group 0 holds what no pattern matches; group i + 1 is `config.groups[i]`. A pattern is tried on
    a tensor's name and on its aliases.

    Raises ConfigError for a pattern that matches no trainable parameter, or settings that
    contradict each other.
    """
    _check(config)
    for group in config.groups:
        _check_group(group, layout)
    settings = OptimizerSettings(
        rule=config.kind,
        groups=(
            _group(config, config.lr, config.weight_decay),
            *(
                _group(
                    config,
                    config.lr if group.lr is None else group.lr,
                    config.weight_decay if group.weight_decay is None else group.weight_decay,
                )
                for group in config.groups
            ),
        ),
    )
    return settings, tuple(_group_of(config, tensor) for tensor in layout.of_role("parameter"))


def shard_settings(
    settings: OptimizerSettings,
    optimizer: OptimizerConfig,
    sync: SyncConfig,
    *,
    momentum_correction: bool = False,
) -> OptimizerSettings:
    """What shards step with, given the settings of the model's optimizer.

    That is the optimizer itself, with the remedies for staleness where there is any, or the outer
    step of `local_steps`. momentum_correction: the workers apply the momentum, so servers do not.
    """
    if sync.local_steps > 1:
        return outer_settings(sync)
    if momentum_correction:
        groups = (msgspec.structs.replace(group, momentum=0.0) for group in settings.groups)
        settings = msgspec.structs.replace(settings, groups=tuple(groups))
    if sync.mode == "bsp":
        return settings
    # Weight prediction deals with the same momentum in its own way: it sends workers ahead of it.
    adapts = settings.rule == "sgd" and not sync.weight_prediction
    return msgspec.structs.replace(
        settings,
        momentum_adaptation=adapts and optimizer.momentum_adaptation,
        delay_compensation=optimizer.delay_compensation,
    )


def outer_settings(config: SyncConfig) -> OptimizerSettings:
    """The servers' step along what workers changed in their `local_steps`.

    A push is then start - end, so that plain SGD with rate 1 averages the workers' models; DiLoCo
    (Douillard et al. 2023) adds Nesterov momentum. The schedule belongs to the workers' own
    optimizers, not to this one.
    """
    group = GroupSettings(
        lr=config.outer_lr,
        momentum=config.outer_momentum,
        nesterov=config.outer_momentum > 0,
    )
    return OptimizerSettings(rule="sgd", groups=(group,))


def schedule_settings(config: ScheduleConfig, epoch_samples: int) -> ScheduleSettings:
    """The schedule with every length in samples.

    epoch_samples: size of the training data, 0 if it is not known.

    Raises ConfigError if epochs are asked for while their size is not known, if the warm-up leaves
    no time to train, or if milestones do not rise.
    """
    if not epoch_samples and config.unit == "epochs":
        if config.kind != "constant" or config.warmup:
            raise ConfigError(
                "[schedule] counts epochs, but the size of the data set is not known here: "
                'set unit = "samples"'
            )
        return ScheduleSettings()
    if config.warmup >= config.length:
        raise ConfigError(
            f"[schedule] warmup is {config.warmup:g} {config.unit}, which must be less than "
            f"length, {config.length:g} {config.unit}"
        )
    if any(late <= early for early, late in itertools.pairwise(config.milestones)):
        raise ConfigError(f"[schedule] milestones must rise, got {list(config.milestones)}")
    unit = epoch_samples if config.unit == "epochs" else 1
    return ScheduleSettings(
        kind=config.kind,
        total=round(config.length * unit),
        warmup=round(config.warmup * unit),
        milestones=tuple(round(milestone * unit) for milestone in config.milestones),
        gamma=config.gamma,
        final_factor=config.final_factor,
    )


def sync_settings(config: SyncConfig) -> SyncSettings:
    """How far workers may drift apart, as shards and workers need to know it."""
    return SyncSettings(
        mode=config.mode,
        staleness_bound=config.staleness_bound,
        lag_bound=config.lag_bound,
        lag_action=config.lag_action,
        weight_prediction=config.weight_prediction,
        local_steps=config.local_steps,
    )


def segments_of(
    layout: Layout, groups: tuple[int, ...], start: int, stop: int
) -> tuple[Segment, ...]:
    """The runs of one group within elements start..stop of the parameter vector.

    groups: for each parameter tensor, in the layout's order, its group. The segments count from
    `start`, follow each other without a gap, and neighbours differ in their group.
    """
    segments: list[Segment] = []
    for tensor, group in zip(layout.of_role("parameter"), groups, strict=True):
        first = max(tensor.offset, start) - start
        last = min(tensor.offset + tensor.extent, stop) - start
        if first >= last:
            continue
        if segments and segments[-1].group == group:
            first = segments.pop().start
        segments.append(Segment(first, last, group))
    return tuple(segments)


def _check(config: OptimizerConfig) -> None:
    if config.nesterov and config.kind != "sgd":
        raise ConfigError(f'[optimizer] nesterov is for kind = "sgd", not for "{config.kind}"')
    if config.nesterov and (config.momentum == 0 or config.dampening != 0):
        raise ConfigError("[optimizer] nesterov needs a momentum above 0 and a dampening of 0")
    if not all(0 <= beta < 1 for beta in config.betas):
        raise ConfigError(f"[optimizer] betas must be in [0, 1), got {list(config.betas)}")


def _check_group(group: GroupConfig, layout: Layout) -> None:
    where = f'[[optimizer.groups]] match = "{group.match}"'
    for key, value in (("lr", group.lr), ("weight_decay", group.weight_decay)):
        if value is not None and not value >= 0:
            raise ConfigError(f"{where}: {key} must be 0 or more, got {value:g}")
    parameters = layout.of_role("parameter")
    if any(_matches(group, tensor) for tensor in parameters):
        return
    if any(_matches(group, tensor) for tensor in layout.of_role("frozen")):
        raise ConfigError(f"{where} matches only parameters that are frozen; remove the group")
    names = [tensor.name for tensor in parameters]
    close = difflib.get_close_matches(group.match, names, n=3, cutoff=0.0)
    raise ConfigError(f"{where} matches no parameter; the model has {', '.join(close)}, ...")


def _matches(group: GroupConfig, tensor: TensorSpec) -> bool:
    return any(fnmatchcase(name, group.match) for name in (tensor.name, *tensor.aliases))


def _group_of(config: OptimizerConfig, tensor: TensorSpec) -> int:
    for index, group in enumerate(config.groups):
        if _matches(group, tensor):
            return index + 1
    return 0


def _group(config: OptimizerConfig, lr: float, weight_decay: float) -> GroupSettings:
    if config.kind == "sgd":
        return GroupSettings(
            lr=lr,
            weight_decay=weight_decay,
            momentum=config.momentum,
            dampening=config.dampening,
            nesterov=config.nesterov,
        )
    return GroupSettings(lr=lr, weight_decay=weight_decay, betas=config.betas, eps=config.eps)
