"""The one frame format of psedge: an exchange between a worker and a shard.

A frame is a header of 96 bytes and three sections of raw bytes, in this order: payload (a codec's
output), buffers (float32), counters (the integer and bool buffers as they are). All integers are
little-endian. `docs/wire.md` has the byte table, `tests/golden/` the bytes; a change to either
raises WIRE_VERSION. No other module packs or unpacks bytes of a frame.
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass

from psedge.protocol.errors import FrameError

WIRE_VERSION = 1
MAGIC = b"PSEG"

#: magic, wire version, kind, flags, shard, worker, incarnation, sequence, version, clock, samples,
#: codec, reply codec, status, reserved, staleness, lag, codec parameters, buffers version,
#: payload bytes, buffers bytes, counters bytes, CRC-32 of all bytes before it.
_HEADER = struct.Struct("<4sHBBIIQQQQIBBBBII8sQIIII")
HEADER_BYTES = _HEADER.size
_CRC = struct.Struct("<I")

#: Most bytes that one section may hold: what its 32-bit length can say.
SECTION_LIMIT_BYTES = 2**32 - 1


class Kind(enum.IntEnum):
    """What a frame is."""

    EXCHANGE = 1  #: worker to shard: push an update, receive fresh parameters
    PULL = 2  #: worker to shard: receive parameters, push nothing
    REPLY = 3  #: shard to worker


class Flag(enum.IntFlag):
    """What else a request asks for."""

    NONE = 0
    GATED = 1  #: reply only when the worker may take its next step


_KNOWN_FLAGS = int(Flag.GATED)


class Status(enum.IntEnum):
    """What became of a push, in a reply."""

    NONE = 0  #: the request pushed nothing, or this is a request
    APPLIED = 1
    DUPLICATE = 2  #: this sequence had arrived before; it was not applied again
    REFUSED_NONFINITE = 3  #: NaN or Inf in the update
    REFUSED_LAG = 4  #: computed on parameters older than lag_bound allows


@dataclass(frozen=True, slots=True)
class Header:
    """The fixed part of a frame; see `docs/wire.md` for which field matters in which kind."""

    kind: Kind
    shard: int
    worker: int
    incarnation: int
    flags: Flag = Flag.NONE
    sequence: int = 0
    version: int = 0
    clock: int = 0
    samples: int = 0
    codec: int = 0
    reply_codec: int = 0
    status: Status = Status.NONE
    staleness: int = 0
    lag: int = 0
    codec_parameters: bytes = bytes(8)
    buffers_version: int = 0
    payload_bytes: int = 0
    buffers_bytes: int = 0
    counters_bytes: int = 0

    @property
    def body_bytes(self) -> int:
        """Bytes that follow the header."""
        return self.payload_bytes + self.buffers_bytes + self.counters_bytes


def encode_header(header: Header) -> bytes:
    """HEADER_BYTES bytes. Raises FrameError if a field does not fit its place."""
    try:
        packed = _HEADER.pack(
            MAGIC, WIRE_VERSION, header.kind, header.flags, header.shard, header.worker,
            header.incarnation, header.sequence, header.version, header.clock, header.samples,
            header.codec, header.reply_codec, header.status, 0, header.staleness, header.lag,
            header.codec_parameters, header.buffers_version, header.payload_bytes,
            header.buffers_bytes, header.counters_bytes, 0,
        )  # fmt: skip
    except struct.error as error:
        raise FrameError(f"header field out of range: {error}") from error
    checked = packed[: -_CRC.size]
    return checked + _CRC.pack(zlib.crc32(checked))


def decode_header(data: bytes | bytearray | memoryview) -> Header:
    """Read a header from exactly HEADER_BYTES bytes.

    Raises FrameError, saying which part is wrong, and nothing else whatever the bytes are.
    """
    if len(data) != HEADER_BYTES:
        raise FrameError(f"a frame header is {HEADER_BYTES} bytes, got {len(data)}")
    (
        magic, wire_version, kind, flags, shard, worker, incarnation, sequence, version, clock,
        samples, codec, reply_codec, status, reserved, staleness, lag, codec_parameters,
        buffers_version, payload_bytes, buffers_bytes, counters_bytes, checksum,
    ) = _HEADER.unpack(data)  # fmt: skip
    if magic != MAGIC:
        raise FrameError(f"not a psedge frame: it starts with {magic!r}, not {MAGIC!r}")
    if wire_version != WIRE_VERSION:
        raise FrameError(
            f"the frame speaks wire version {wire_version}, this psedge speaks {WIRE_VERSION}: "
            "install the same psedge on every machine"
        )
    if checksum != zlib.crc32(bytes(data[: -_CRC.size])):
        raise FrameError("the header's checksum does not match: damaged on the way")
    if reserved:
        raise FrameError(f"reserved byte is {reserved}, must be 0")
    if flags & ~_KNOWN_FLAGS:
        raise FrameError(f"unknown flags {flags:#04x}")
    try:
        return Header(
            kind=Kind(kind), flags=Flag(flags), shard=shard, worker=worker,
            incarnation=incarnation, sequence=sequence, version=version, clock=clock,
            samples=samples, codec=codec, reply_codec=reply_codec, status=Status(status),
            staleness=staleness, lag=lag, codec_parameters=codec_parameters,
            buffers_version=buffers_version, payload_bytes=payload_bytes,
            buffers_bytes=buffers_bytes, counters_bytes=counters_bytes,
        )  # fmt: skip
    except ValueError as error:
        raise FrameError(f"frame header: {error}") from error
