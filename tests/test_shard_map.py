"""Equal cuts, whole vectors back, nobody without a share."""

from __future__ import annotations

import numpy as np
import pytest

from psedge.compression.codes import BUCKET
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import ConfigError
from psedge.protocol.layout import Layout, TensorSlice, TensorSpec
from psedge.protocol.shards import (
    Assignment,
    GroupSettings,
    OptimizerSettings,
    ScheduleSettings,
    Segment,
    SyncSettings,
)
from psedge.supervisor.shard_map import cut_arrays, join_arrays, plan_shards

LAYOUT = Layout((
    TensorSpec("a.weight", (5, 4), "float32", "parameter", 0),
    TensorSpec("a.bias", (5,), "float32", "parameter", 20),
    TensorSpec("b.weight", (6,), "bfloat16", "parameter", 25),
    TensorSpec("norm.mean", (5,), "float32", "buffer", 0),
    TensorSpec("norm.count", (), "int64", "counter", 0),
    TensorSpec("embed", (3,), "float16", "frozen", 0),
))  # fmt: skip
CODING = CodingSettings(push="q4")
OPTIMIZER = OptimizerSettings("sgd", (GroupSettings(0.1), GroupSettings(0.2)))


def _plan(servers: int) -> list[Assignment]:
    schedule, sync = ScheduleSettings(total=9), SyncSettings("ssp")
    return plan_shards(LAYOUT, OPTIMIZER, (0, 1, 0), schedule, sync, CODING, servers)


def test_one_server_holds_everything() -> None:
    (only,) = _plan(1)
    assert (only.start, only.stop, only.buffers_start, only.buffers_stop) == (0, 31, 0, 5)
    assert only.counters_bytes == 8
    assert only.segments == (Segment(0, 20, 0), Segment(20, 25, 1), Segment(25, 31, 0))
    assert only.tensors == (TensorSlice(0, 20, 4),)
    assert only.coding == CODING
    assert (only.optimizer, only.schedule.total, only.sync.mode) == (OPTIMIZER, 9, "ssp")


def test_three_servers_share_equally_and_tensors_are_cut() -> None:
    shards = _plan(3)
    assert [(each.start, each.stop) for each in shards] == [(0, 8), (8, 16), (16, 31)]
    assert [each.shard for each in shards] == [0, 1, 2]
    assert [each.counters_bytes for each in shards] == [8, 0, 0]
    assert [each.buffers_stop - each.buffers_start for each in shards] == [1, 2, 2]
    assert shards[2].segments == (Segment(0, 4, 0), Segment(4, 9, 1), Segment(9, 15, 0))
    assert [each.tensors for each in shards] == [
        (TensorSlice(0, 8, 4),), (TensorSlice(0, 8, 4),), (TensorSlice(0, 4, 4),),
    ]  # fmt: skip
    assert [each.slice.coded for each in shards] == [8, 8, 4]


@pytest.mark.parametrize("servers", [1, 2, 3, 7])
def test_cuts_fall_between_the_buckets_of_codecs(servers: int) -> None:
    layout = Layout((TensorSpec("weight", (461, 1003), "float32", "parameter", 0),))
    shards = plan_shards(
        layout, OPTIMIZER, (0,), ScheduleSettings(), SyncSettings("asp"), CODING, servers
    )
    starts = [each.start for each in shards]
    assert all(start % BUCKET == 0 for start in starts)
    assert shards[-1].stop == 461 * 1003
    sizes = [each.stop - each.start for each in shards]
    assert max(sizes) - min(sizes) < 2 * BUCKET


def test_vectors_come_back_whole() -> None:
    vectors = {
        "parameters": np.arange(31, dtype=np.float32),
        "buffers": np.arange(5, dtype=np.float32),
        "counters": np.arange(8, dtype=np.uint8),
        "optimizer.momentum": -np.arange(31, dtype=np.float32),
    }
    for servers in (1, 2, 3, 31):
        shards = _plan(servers)
        parts = [cut_arrays(each, {**vectors, "frozen": np.zeros(6, np.uint8)}) for each in shards]
        joined = join_arrays(shards, parts)
        assert joined.keys() == vectors.keys()
        for name, vector in vectors.items():
            np.testing.assert_array_equal(joined[name], vector)
            assert joined[name].dtype == vector.dtype


def test_a_damaged_answer_never_becomes_a_whole() -> None:
    shards = _plan(2)
    parts = [cut_arrays(each, {"parameters": np.zeros(31, np.float32)}) for each in shards]
    short = [parts[0], {"parameters": parts[1]["parameters"][1:]}]
    with pytest.raises(ValueError, match="shard 1: parameters has shape"):
        join_arrays(shards, short)
    with pytest.raises(ValueError, match="shard 1 has"):
        join_arrays(shards, [parts[0], {}])
    with pytest.raises(ValueError, match="zip"):
        join_arrays(shards, parts[:1])


def test_more_servers_than_parameters_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"servers = 32, but the model has only 31 parameters"):
        _plan(32)
