"""A snapshot of a shard on disk: a safetensors file that any reader opens, with a checksum of all.

It is the bundle of a shard's image and of what the image belongs to. The checksum lies in the
message itself: XXH3-64 over the whole file as it is with a checksum of zeros. It finds what rot or
an editor has changed; it does not guard against forgery. `docs/log.md` describes the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import xxhash
from numpy.typing import NDArray

from psedge.protocol.bundle import pack, unpack
from psedge.protocol.errors import DamagedError, FrameError
from psedge.protocol.ports import Buffer
from psedge.protocol.shards import ShardOrder

_NAME = re.compile(r"snapshot-(\d{20})\.safetensors")
_NO_CHECKSUM = "0" * 16
#: As the field lies in the file: the message is JSON in a string of JSON.
_FIELD = b'\\"checksum\\":\\"'


class Snapshot(msgspec.Struct, frozen=True):
    """What a snapshot is of; its arrays travel with it.

    checksum: 16 hexadecimal digits. run: identity of the run. lineage: see `SegmentHeader`.
    order: without a reign, which is not decided here; without a state it is of a new shard.
    """

    checksum: str
    run: str
    lineage: int
    order: ShardOrder


def snapshot_name(index: int) -> str:
    return f"snapshot-{index:020d}.safetensors"


def index_of(name: str) -> int | None:
    """Index of the latest entry in a snapshot, by the name of its file; None for other files."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def encode_snapshot(
    run: str, lineage: int, order: ShardOrder, arrays: Mapping[str, NDArray[Any]]
) -> list[Buffer]:
    """The parts of the file, in memory of their own."""
    order = msgspec.structs.replace(order, reign=None)
    content = pack(Snapshot(_NO_CHECKSUM, run, lineage, order), arrays)
    at = content.index(_FIELD) + len(_FIELD)
    return [
        content[:at],
        xxhash.xxh3_64_hexdigest(content).encode(),
        memoryview(content)[at + len(_NO_CHECKSUM) :],
    ]


def decode_snapshot(content: bytes) -> tuple[Snapshot, dict[str, NDArray[Any]]]:
    """A snapshot and its arrays, writable and in memory of their own.

    Raises DamagedError if it is not what was written, FrameError if it is no snapshot at all.
    """
    at = content.find(_FIELD) + len(_FIELD)
    if at < len(_FIELD):
        raise FrameError("it is no snapshot of a shard")
    stop = at + len(_NO_CHECKSUM)
    whole = xxhash.xxh3_64(content[:at])
    whole.update(_NO_CHECKSUM.encode())
    whole.update(memoryview(content)[stop:])
    if whole.hexdigest().encode() != content[at:stop]:
        raise DamagedError("it has changed since it was written")
    return unpack(content, Snapshot)
