"""The one frame format of psedge: an exchange between a worker and a shard.

A frame is a header of 124 bytes and three sections of raw bytes, in this order: payload (a codec's
output), buffers (float32), counters (the integer and bool buffers as they are). All integers are
little-endian. `docs/wire.md` has the byte table, `tests/golden/` the bytes; a change to either
raises WIRE_VERSION. No other module packs or unpacks bytes of a frame.
"""

from __future__ import annotations

import enum
import struct
import zlib

import msgspec

from psedge.protocol.errors import FrameError

WIRE_VERSION = 4
MAGIC = b"PSEG"

#: magic, wire version, kind, flags, shard, term, worker, incarnation, sequence, version, clock,
#: samples, codec, lossless, reply codec, reply lossless, status, content, deltas, staleness, lag,
#: codec parameters, receive microseconds, buffers version, position, digest, payload bytes, buffers
#: bytes, counters bytes, CRC-32 of all bytes before it.
_HEADER = struct.Struct("<4sHBBIIIQQQQIBBBBBBHII8sIQQQIIII")
HEADER_BYTES = _HEADER.size
_CRC = struct.Struct("<I")


class Kind(enum.IntEnum):
    """What a frame is."""

    EXCHANGE = 1  #: worker to shard: push an update, receive fresh parameters
    PULL = 2  #: worker to shard: receive parameters, push nothing
    REPLY = 3  #: shard to worker


class Flag(enum.IntFlag):
    """What else a request asks for."""

    NONE = 0
    GATED = 1  #: reply only when the worker may take its next step
    BUFFERS = 2  #: send buffers and counters too, if they changed
    NONFINITE = 4  #: the update has NaN or Inf, so it was left out: refuse this push


_KNOWN_FLAGS = int(Flag.GATED | Flag.BUFFERS | Flag.NONFINITE)


class Content(enum.IntEnum):
    """What a reply's payload is."""

    NONE = 0  #: no parameters: the gate did not open in time, ask again
    WHOLE = 1  #: the parameters themselves; they replace the worker's
    DELTAS = 2  #: `deltas` differences, one after the other, to be added to the worker's


#: `position` of a worker whose parameters are at no position of a chain.
NO_POSITION = 2**64 - 1


class Status(enum.IntEnum):
    """What became of a push, in a reply."""

    NONE = 0  #: the request pushed nothing, or this is a request
    APPLIED = 1
    DUPLICATE = 2  #: this sequence had arrived before; it was not applied again
    REFUSED_NONFINITE = 3  #: NaN or Inf in the update
    REFUSED_LAG = 4  #: computed on parameters older than lag_bound allows


#: Looking up a member takes a tenth of what making it from its number takes.
_KINDS = {int(kind): kind for kind in Kind}
_FLAGS = {bits: Flag(bits) for bits in range(_KNOWN_FLAGS + 1)}
_STATUSES = {int(status): status for status in Status}
_CONTENTS = {int(content): content for content in Content}


class Header(msgspec.Struct, frozen=True):
    """The fixed part of a frame; see `docs/wire.md` for which field matters in which kind."""

    kind: Kind
    shard: int
    worker: int
    incarnation: int
    flags: Flag = Flag.NONE
    term: int = 0
    sequence: int = 0
    version: int = 0
    clock: int = 0
    samples: int = 0
    codec: int = 0
    lossless: int = 0
    reply_codec: int = 0
    reply_lossless: int = 0
    status: Status = Status.NONE
    content: Content = Content.NONE
    deltas: int = 0
    staleness: int = 0
    lag: int = 0
    codec_parameters: bytes = bytes(8)
    receive_microseconds: int = 0
    buffers_version: int = 0
    position: int = 0
    digest: int = 0
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
            MAGIC, WIRE_VERSION, header.kind, header.flags, header.shard, header.term,
            header.worker, header.incarnation, header.sequence, header.version, header.clock,
            header.samples,
            header.codec, header.lossless, header.reply_codec, header.reply_lossless,
            header.status, header.content, header.deltas, header.staleness, header.lag,
            header.codec_parameters, header.receive_microseconds, header.buffers_version,
            header.position, header.digest, header.payload_bytes, header.buffers_bytes,
            header.counters_bytes, 0,
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
        magic, wire_version, kind, flags, shard, term, worker, incarnation, sequence, version,
        clock, samples, codec, lossless, reply_codec, reply_lossless, status, content, deltas,
        staleness, lag, codec_parameters, receive_microseconds, buffers_version, position, digest,
        payload_bytes, buffers_bytes, counters_bytes, checksum,
    ) = _HEADER.unpack(data)  # fmt: skip
    if magic != MAGIC:
        raise FrameError(f"not a psedge frame: it starts with {magic!r}, not {MAGIC!r}")
    if wire_version != WIRE_VERSION:
        raise FrameError(
            f"the frame speaks wire version {wire_version}, this psedge speaks {WIRE_VERSION}: "
            "install the same psedge on every machine"
        )
    if checksum != zlib.crc32(memoryview(data)[: -_CRC.size]):
        raise FrameError("the header's checksum does not match: damaged on the way")
    if flags & ~_KNOWN_FLAGS:
        raise FrameError(f"unknown flags {flags:#04x}")
    try:
        return Header(
            kind=_KINDS[kind], flags=_FLAGS[flags], shard=shard, term=term, worker=worker,
            incarnation=incarnation, sequence=sequence, version=version, clock=clock,
            samples=samples, codec=codec, lossless=lossless, reply_codec=reply_codec,
            reply_lossless=reply_lossless, status=_STATUSES[status], content=_CONTENTS[content],
            deltas=deltas, staleness=staleness, lag=lag, codec_parameters=codec_parameters,
            receive_microseconds=receive_microseconds, buffers_version=buffers_version,
            position=position, digest=digest, payload_bytes=payload_bytes,
            buffers_bytes=buffers_bytes, counters_bytes=counters_bytes,
        )  # fmt: skip
    except KeyError as error:
        raise FrameError(
            f"a frame of kind {kind}, status {status}, content {content}: {error} is not known"
        ) from error
