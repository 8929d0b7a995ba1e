"""A shard and what its workers know, for tests that only say who pushes what."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from psedge.compression.coder import Coder, Opened
from psedge.compression.identity import Identity
from psedge.compression.lossless import NoStage
from psedge.protocol.layout import Slice
from psedge.protocol.shards import (
    Assignment,
    GroupSettings,
    Member,
    Members,
    OptimizerSettings,
    Progress,
    ScheduleSettings,
    Segment,
    SyncSettings,
)
from psedge.server.shard import Outcome, Push, Shard

SGD = OptimizerSettings("sgd", (GroupSettings(lr=1.0),))
CONSTANT = ScheduleSettings()


def vector(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def payload(*values: float, offset: int = 10) -> Opened:
    """A gradient as a push brings it."""
    coder = Coder(Identity(), NoStage(), Slice(offset, len(values), ()))
    return coder.open(memoryview(vector(*values).tobytes()))


def assignment(
    sync: SyncSettings,
    optimizer: OptimizerSettings = SGD,
    schedule: ScheduleSettings = CONSTANT,
) -> Assignment:
    return Assignment(
        shard=0,
        start=10,
        stop=12,
        buffers_start=3,
        buffers_stop=4,
        counters_bytes=1,
        segments=(Segment(0, 2, 0),),
        optimizer=optimizer,
        schedule=schedule,
        sync=sync,
    )


class Cluster:
    """A shard and what its workers know, so that a test says only who pushes what."""

    def __init__(self, mode: Any = "asp", workers: int = 2, **further: Any) -> None:
        names = ("optimizer", "schedule")
        settings = {name: further.pop(name) for name in names if name in further}
        self.shard = Shard(
            assignment(SyncSettings(mode, **further), **settings),
            vector(0.0, 0.0),
            vector(0.0),
            b"\x00",
        )
        self.members = {worker: Member(worker, 1) for worker in range(workers)}
        self.sequences: dict[tuple[int, int], int] = {}
        self.revision = 0
        self.tell()

    def tell(self) -> None:
        self.revision += 1
        self.shard.set_members(Members(self.revision, tuple(self.members.values())))

    def push(self, worker: int, *gradient: float, samples: int = 1, **further: Any) -> Outcome:
        key = (worker, self.members[worker].incarnation)
        self.sequences[key] = self.sequences.get(key, 0) + 1
        push = Push(*key, self.sequences[key], self.shard.version, samples, payload(*gradient))
        outcome = self.shard.push(msgspec.structs.replace(push, **further))
        self.shard.check_invariants()
        return outcome

    def progress(self, worker: int, incarnation: int = 1) -> Progress:
        return next(
            progress
            for progress in self.shard.report().workers
            if (progress.worker, progress.incarnation) == (worker, incarnation)
        )

    def bits(self) -> dict[str, bytes]:
        return {name: array.tobytes() for name, array in self.shard.state()[1].items()}
