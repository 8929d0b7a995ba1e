"""One entry of a shard's log, as it lies on disk and travels to the backups: the same bytes.

An entry is a header of 28 bytes and a body. `docs/log.md` has the byte table. What a body is
depends on the kind: the frame of a push exactly as it came over the wire, the JSON of a Members,
nothing for the beginning of a term, a digest. No other module packs or unpacks entries.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

import msgspec
import xxhash

from psedge.protocol.errors import DamagedError, FrameError
from psedge.protocol.ports import Buffer
from psedge.protocol.wire import HEADER_BYTES

#: index, term, kind, 3 bytes of zeros, bytes of the body, XXH3-64 of all that and the body.
_HEADER = struct.Struct("<QIB3xIQ")
ENTRY_HEADER_BYTES = _HEADER.size
_CHECKED = _HEADER.size - 8
#: Longest body: a frame's header and three sections.
BODY_LIMIT_BYTES = 2**32 - 1
#: Length of the body of a DIGEST.
DIGEST_BYTES = 8


class EntryKind(enum.IntEnum):
    """What an entry does to the shard."""

    PUSH = 1  #: body: an EXCHANGE frame; refused pushes that step a worker's clock included
    MEMBERS = 2  #: body: JSON of a `Members` that changed who is live
    TERM = 3  #: body: empty; the first entry of a reign
    DIGEST = 4  #: body: what `Shard.digest` must be here; changes nothing


_KINDS = {int(kind): kind for kind in EntryKind}


class Entry(msgspec.Struct, frozen=True):
    """index: from 1, without gaps. term: of the primary that wrote it.

    body: memory that nobody writes to any more.
    """

    index: int
    term: int
    kind: EntryKind
    body: Buffer = b""

    @property
    def size(self) -> int:
        """Bytes on disk and on the wire."""
        return ENTRY_HEADER_BYTES + len(self.body)


def encode_entry(entry: Entry) -> list[Buffer]:
    """The parts of an entry: its header, and its body as it is."""
    packed = _HEADER.pack(entry.index, entry.term, entry.kind, len(entry.body), 0)[:_CHECKED]
    digest = xxhash.xxh3_64(packed)
    digest.update(entry.body)
    head = packed + digest.intdigest().to_bytes(8, "little")
    return [head, entry.body] if len(entry.body) else [head]


def decode_entry(data: memoryview) -> Entry | None:
    """The entry at the beginning of `data`, whose body stays where it is; None if it ends early.

    Raises DamagedError if it is not what was written, FrameError for an unknown kind.
    """
    if len(data) < ENTRY_HEADER_BYTES:
        return None
    index, term, kind, length, checksum = _HEADER.unpack_from(data)
    stop = ENTRY_HEADER_BYTES + length
    if len(data) < stop:
        return None
    body = data[ENTRY_HEADER_BYTES:stop]
    digest = xxhash.xxh3_64(data[:_CHECKED])
    digest.update(body)
    if digest.intdigest() != checksum:
        raise DamagedError(f"the checksum of log entry {index} does not match")
    if kind not in _KINDS:
        raise FrameError(f"log entry {index} is of kind {kind}, which this psedge does not know")
    if kind == EntryKind.PUSH and length < HEADER_BYTES:
        raise FrameError(f"log entry {index} holds {length} bytes, too few for a push")
    return Entry(index, term, _KINDS[kind], body)


def decode_entries(data: memoryview) -> Iterator[Entry]:
    """All entries of a message. Raises FrameError if the last one is cut off."""
    at = 0
    while at < len(data):
        entry = decode_entry(data[at:])
        if entry is None:
            raise FrameError("the last log entry of a message is cut off")
        yield entry
        at += entry.size
