"""A shard and what its workers know, for tests that only say who pushes what."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from psedge.compression.coder import Coder, Coders, Opened
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
from psedge.protocol.wire import (
    HEADER_BYTES,
    Flag,
    Header,
    Kind,
    decode_header,
    encode_header,
)
from psedge.server.frames import check_sections, push_of
from psedge.server.shard import Outcome, Push, Shard

SGD = OptimizerSettings("sgd", (GroupSettings(lr=1.0),))
CONSTANT = ScheduleSettings()


def vector(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def payload(*values: float, offset: int = 10) -> Opened:
    """A gradient as a push brings it."""
    coder = Coder(Identity(), NoStage(), Slice(offset, len(values), ()))
    return coder.open(memoryview(vector(*values).tobytes()))


def frame_of(
    worker: int,
    incarnation: int,
    sequence: int,
    version: int,
    samples: int,
    gradient: NDArray[np.float32] | bytes | None,
    buffers: NDArray[np.float32] | None = None,
    counters: bytes = b"",
    coder: Coder | None = None,
) -> bytes:
    """A push as it comes over the wire.

    gradient: numbers, or what `coder` made of them; None for one with NaN, which is left out.
    """
    sections = [
        b"" if gradient is None else bytes(gradient),
        b"" if buffers is None else buffers.tobytes(),
        counters,
    ]
    header = Header(
        Kind.EXCHANGE,
        shard=0,
        worker=worker,
        incarnation=incarnation,
        flags=Flag.NONFINITE if gradient is None else Flag.NONE,
        sequence=sequence,
        version=version,
        samples=samples,
        codec=coder.codec.id if coder is not None else Identity.id,
        codec_parameters=coder.codec.parameters() if coder is not None else bytes(8),
        lossless=coder.lossless.id if coder is not None else NoStage.id,
        payload_bytes=len(sections[0]),
        buffers_bytes=len(sections[1]),
        counters_bytes=len(sections[2]),
    )
    return b"".join([encode_header(header), *sections])


def pushed(frame: bytes, shard: Shard) -> Push:
    """What a server makes of a frame."""
    header = decode_header(frame[:HEADER_BYTES])
    coder = Coders(shard.piece).of_frame(header.codec, header.codec_parameters, header.lossless)
    check_sections(header, len(frame), coder, shard)
    return push_of(header, memoryview(frame)[HEADER_BYTES:], coder, None)


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
