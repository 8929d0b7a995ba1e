"""From what a config says to what a shard needs."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.protocol.errors import ConfigError
from psedge.protocol.layout import Layout, TensorSpec, cut
from psedge.protocol.shards import (
    GroupSettings,
    OptimizerSettings,
    ScheduleSettings,
    Segment,
    SyncSettings,
)
from psedge.server.config import GroupConfig, OptimizerConfig, ScheduleConfig, SyncConfig
from psedge.server.optimizer_settings import (
    outer_settings,
    schedule_settings,
    segments_of,
    settings_of,
    shard_settings,
    sync_settings,
)

LAYOUT = Layout(
    (
        TensorSpec("body.weight", (3, 4), "float32", "parameter", 0, aliases=("head.weight",)),
        TensorSpec("body.bias", (4,), "float32", "parameter", 12),
        TensorSpec("head.bias", (2,), "float32", "parameter", 16),
        TensorSpec("stem.weight", (5,), "float32", "frozen", 0),
    )
)


def test_groups_take_what_they_do_not_say_from_the_optimizer() -> None:
    config = OptimizerConfig(
        lr=0.1,
        weight_decay=0.01,
        groups=(GroupConfig("*.bias", weight_decay=0.0), GroupConfig("head.*", lr=0.5)),
    )
    settings, groups = settings_of(config, LAYOUT)
    assert settings.groups == (
        GroupSettings(0.1, 0.01, momentum=0.9),
        GroupSettings(0.1, 0.0, momentum=0.9),
        GroupSettings(0.5, 0.01, momentum=0.9),
    )
    # The first pattern that matches counts, and a tied tensor goes by any of its names.
    assert groups == (2, 1, 1)


def test_adam_has_betas_and_no_momentum() -> None:
    settings, groups = settings_of(OptimizerConfig(kind="adam", betas=(0.8, 0.9)), LAYOUT)
    assert settings.rule == "adam"
    assert settings.groups == (GroupSettings(0.1, betas=(0.8, 0.9)),)
    assert groups == (0, 0, 0)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (OptimizerConfig(groups=(GroupConfig("haed.*"),)), r'"haed\.\*" matches no.*head\.bias'),
        (OptimizerConfig(groups=(GroupConfig("stem.*"),)), "frozen"),
        (OptimizerConfig(groups=(GroupConfig("*", lr=-1.0),)), "lr must be 0 or more"),
        (OptimizerConfig(kind="adam", nesterov=True), "nesterov is for"),
        (OptimizerConfig(momentum=0.0, nesterov=True), "momentum above 0"),
        (OptimizerConfig(dampening=0.5, nesterov=True), "dampening of 0"),
        (OptimizerConfig(kind="adam", betas=(0.9, 1.0)), "betas"),
    ],
)
def test_mistakes_are_named(config: OptimizerConfig, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        settings_of(config, LAYOUT)


def test_outer_step_averages_by_default_and_is_diloco_with_momentum() -> None:
    assert outer_settings(SyncConfig()).groups == (GroupSettings(lr=1.0),)
    diloco = outer_settings(SyncConfig(outer_lr=0.7, outer_momentum=0.9))
    assert diloco.groups == (GroupSettings(lr=0.7, momentum=0.9, nesterov=True),)


MOMENTUM = OptimizerSettings("sgd", (GroupSettings(0.1, momentum=0.9),))
ADAM = OptimizerSettings("adam", (GroupSettings(0.1),))


@pytest.mark.parametrize(
    ("settings", "optimizer", "sync", "adapts", "compensation"),
    [
        (MOMENTUM, OptimizerConfig(), SyncConfig("ssp"), True, 0.0),
        (MOMENTUM, OptimizerConfig(delay_compensation=0.04), SyncConfig("asp"), True, 0.04),
        (MOMENTUM, OptimizerConfig(momentum_adaptation=False), SyncConfig("ssp"), False, 0.0),
        (MOMENTUM, OptimizerConfig(), SyncConfig("bsp"), False, 0.0),
        (MOMENTUM, OptimizerConfig(), SyncConfig("ssp", weight_prediction=True), False, 0.0),
        (ADAM, OptimizerConfig(delay_compensation=0.1), SyncConfig("ssp"), False, 0.1),
    ],
)
def test_shards_remedy_staleness_where_there_is_any(
    settings: OptimizerSettings,
    optimizer: OptimizerConfig,
    sync: SyncConfig,
    adapts: bool,
    compensation: float,
) -> None:
    assert shard_settings(settings, optimizer, sync) == OptimizerSettings(
        settings.rule, settings.groups, adapts, compensation
    )


def test_shards_of_workers_with_steps_of_their_own_take_the_outer_step() -> None:
    sync = SyncConfig(local_steps=4, outer_lr=0.7)
    optimizer = OptimizerConfig(delay_compensation=0.1)
    assert shard_settings(ADAM, optimizer, sync) == outer_settings(sync)


def test_shards_leave_momentum_to_workers_that_correct_it() -> None:
    settings = shard_settings(
        MOMENTUM, OptimizerConfig(), SyncConfig("bsp"), momentum_correction=True
    )
    assert settings.groups == (GroupSettings(0.1),)


def test_lengths_in_epochs_become_samples() -> None:
    config = ScheduleConfig("step", length=2.5, warmup=0.1, milestones=(1.0, 2.0), gamma=0.5)
    assert schedule_settings(config, 1000) == ScheduleSettings(
        "step", total=2500, warmup=100, milestones=(1000, 2000), gamma=0.5
    )


def test_lengths_in_samples_need_no_data_set() -> None:
    config = ScheduleConfig("cosine", unit="samples", length=5000, warmup=10, final_factor=0.1)
    assert schedule_settings(config, 0) == ScheduleSettings(
        "cosine", total=5000, warmup=10, final_factor=0.1
    )
    assert schedule_settings(ScheduleConfig(), 0) == ScheduleSettings()


@pytest.mark.parametrize(
    ("config", "epoch", "says"),
    [
        (ScheduleConfig("cosine"), 0, "samples"),
        (ScheduleConfig(warmup=1.0), 0, "samples"),
        (ScheduleConfig(length=3, warmup=3), 10, "less than length"),
        (ScheduleConfig("step", milestones=(5, 3)), 10, "must rise"),
    ],
)
def test_schedules_that_cannot_be(config: ScheduleConfig, epoch: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        schedule_settings(config, epoch)


def test_sync_settings_are_the_configs() -> None:
    config = SyncConfig("asp", staleness_bound=7, lag_bound=9, lag_action="refuse", local_steps=4)
    assert sync_settings(config) == SyncSettings("asp", 7, 9, "refuse", local_steps=4)


def test_neighbours_of_one_group_are_one_segment() -> None:
    assert segments_of(LAYOUT, (0, 1, 1), 0, 18) == (Segment(0, 12, 0), Segment(12, 18, 1))
    assert segments_of(LAYOUT, (0, 0, 0), 5, 17) == (Segment(0, 12, 0),)
    assert segments_of(LAYOUT, (0, 1, 0), 13, 13) == ()


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=12),
    st.integers(1, 9),
)
def test_segments_say_the_group_of_every_element(
    tensors: list[tuple[int, int]], shards: int
) -> None:
    offset, specs, by_element = 0, [], []
    for index, (length, group) in enumerate(tensors):
        specs.append(TensorSpec(str(index), (length,), "float32", "parameter", offset))
        by_element += [group] * length
        offset += length
    groups = tuple(group for _, group in tensors)
    found = []
    for start, stop in cut(offset, shards):
        segments = segments_of(Layout(tuple(specs)), groups, start, stop)
        assert all(a.stop == b.start and a.group != b.group for a, b in pairwise(segments))
        assert not segments or (segments[0].start, segments[-1].stop) == (0, stop - start)
        for segment in segments:
            found += [segment.group] * (segment.stop - segment.start)
    assert found == by_element
