"""Which server owns which part of the model: equal cuts of the flat vectors, and back again.

The parameter and buffer vectors are cut by length alone, so every server carries the same load and
a tensor lies on two servers wherever a cut falls. Parameters are cut between the buckets of the
codecs, so that what becomes of an element does not depend on how many servers there are. Counters
are few; shard 0 holds them whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psedge.compression.codes import BUCKET
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import ConfigError
from psedge.protocol.layout import Layout, cut, slice_of
from psedge.protocol.shards import Assignment, OptimizerSettings, ScheduleSettings, SyncSettings
from psedge.server.optimizer_settings import segments_of

Array = NDArray[Any]


def plan_shards(
    layout: Layout,
    optimizer: OptimizerSettings,
    groups: tuple[int, ...],
    schedule: ScheduleSettings,
    sync: SyncSettings,
    coding: CodingSettings,
    servers: int,
) -> list[Assignment]:
    """One shard for each of `servers`, in order.

    groups: index into `optimizer.groups` of each parameter tensor, in the layout's order.
    Raises ConfigError when there are more servers than parameters.
    """
    parameters = layout.length("parameter")
    if servers > parameters:
        raise ConfigError(
            f"[cluster] servers = {servers}, but the model has only {parameters} parameters: "
            "each server needs at least one"
        )
    ranges = zip(
        cut(parameters, servers, BUCKET), cut(layout.length("buffer"), servers), strict=True
    )
    return [
        Assignment(
            shard=shard,
            start=start,
            stop=stop,
            buffers_start=buffers_start,
            buffers_stop=buffers_stop,
            counters_bytes=layout.length("counter") if shard == 0 else 0,
            segments=segments_of(layout, groups, start, stop),
            optimizer=optimizer,
            schedule=schedule,
            sync=sync,
            tensors=slice_of(layout, start, stop).tensors,
            coding=coding,
        )
        for shard, ((start, stop), (buffers_start, buffers_stop)) in enumerate(ranges)
    ]


def cut_arrays(assignment: Assignment, vectors: Mapping[str, Array]) -> dict[str, Array]:
    """A shard's views of the whole vectors.

    vectors: `parameters`, `buffers`, `counters` and any `optimizer.NAME`, which are as long as the
    parameters. Others, such as `frozen`, are no server's business and left out.
    """
    arrays: dict[str, Array] = {}
    for name, vector in vectors.items():
        if name == "parameters" or name.startswith("optimizer."):
            arrays[name] = vector[assignment.start : assignment.stop]
        elif name == "buffers":
            arrays[name] = vector[assignment.buffers_start : assignment.buffers_stop]
        elif name == "counters":
            arrays[name] = vector[: assignment.counters_bytes]
    return arrays


def join_arrays(
    assignments: Sequence[Assignment], shards: Sequence[Mapping[str, Array]]
) -> dict[str, Array]:
    """The whole vectors again.

    shards: the arrays of each shard, in the order of `assignments`; at least one, and all with
    the same names. Raises ValueError if an array is not as long as its assignment says, or is
    missing, so that a damaged answer never becomes a checkpoint.
    """
    for assignment, arrays in zip(assignments, shards, strict=True):
        _check_shard(assignment, arrays, set(shards[0]))
    return {name: np.concatenate([arrays[name] for arrays in shards]) for name in shards[0]}


def _check_shard(assignment: Assignment, arrays: Mapping[str, Array], names: set[str]) -> None:
    if set(arrays) != names:
        raise ValueError(f"shard {assignment.shard} has {sorted(arrays)}, not {sorted(names)}")
    lengths = {
        "buffers": assignment.buffers_stop - assignment.buffers_start,
        "counters": assignment.counters_bytes,
    }
    for name, array in arrays.items():
        wanted = lengths.get(name, assignment.stop - assignment.start)
        if array.shape != (wanted,):
            raise ValueError(
                f"shard {assignment.shard}: {name} has shape {array.shape}, expected ({wanted},)"
            )
