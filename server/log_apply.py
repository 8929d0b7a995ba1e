"""What an entry of a log does to a shard: the same on a backup, from disk and in a replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from numpy.typing import NDArray

from psedge.compression.coder import Coders
from psedge.protocol.errors import FrameError, RefusedError
from psedge.protocol.log_entry import Entry, EntryKind
from psedge.protocol.shards import Members, ShardOrder
from psedge.protocol.wire import HEADER_BYTES, decode_header
from psedge.server.frames import check_sections, push_of
from psedge.server.push import Push
from psedge.server.shard import Shard


def shard_of(
    order: ShardOrder, arrays: Mapping[str, NDArray[Any]], shard_type: type[Shard] = Shard
) -> Shard:
    """A new shard, or one that goes on. Raises FrameError if an array is missing or too short."""
    assignment = order.assignment
    try:
        if order.state is not None:
            return shard_type.restored(assignment, order.state, arrays)
        counters = arrays["counters"].tobytes()
        return shard_type(assignment, arrays["parameters"], arrays["buffers"], counters)
    except (KeyError, ValueError) as error:
        raise FrameError(f"assignment of shard {assignment.shard}: {error}") from error


def applied(entry: Entry, shard: Shard, coders: Coders) -> bool:
    """Apply one entry. coders: of the shard's slice.

    False: this is not the shard that it was written for, because it changes nothing or the digest
    is another one.
    """
    if entry.kind is EntryKind.TERM:
        return True
    if entry.kind is EntryKind.DIGEST:
        return shard.digest() == int.from_bytes(entry.body, "little")
    before = shard.taken
    try:
        if entry.kind is EntryKind.PUSH:
            shard.push(_push_of(memoryview(entry.body), shard, coders))
        else:
            shard.set_members(msgspec.json.decode(entry.body, type=Members))
    except (FrameError, RefusedError, msgspec.MsgspecError):
        return False
    return shard.taken > before


def _push_of(frame: memoryview, shard: Shard, coders: Coders) -> Push:
    header = decode_header(frame[:HEADER_BYTES])
    coder = coders.of_frame(header.codec, header.codec_parameters, header.lossless)
    check_sections(header, len(frame), coder, shard)
    return push_of(header, frame[HEADER_BYTES:], coder, None)
