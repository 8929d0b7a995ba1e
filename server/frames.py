"""Between the frames of an exchange and what a shard knows: pushes, publications, outcomes."""

from __future__ import annotations

import numpy as np

from psedge.compression.codec import Float32Array
from psedge.compression.coder import Coder, Opened
from psedge.compression.lossless import stage_of_frame
from psedge.compression.table import PULL_CODECS, codec_of_frame
from psedge.protocol.errors import FrameError
from psedge.protocol.ports import Buffer
from psedge.protocol.wire import HEADER_BYTES, NO_POSITION, Content, Flag, Header, Kind
from psedge.server.publication import Publication, Wanted
from psedge.server.push import Outcome, Push
from psedge.server.shard import Shard

#: Largest figure that a 32-bit field can hold.
_LARGEST_U32 = 2**32 - 1
_NO_PARAMETERS = bytes(8)


def wanted_of(header: Header) -> Wanted:
    """How a request is to be answered. Raises FrameError for a codec that cannot carry pulls."""
    codec = codec_of_frame(header.reply_codec, _NO_PARAMETERS)
    if codec.name not in PULL_CODECS:
        raise FrameError(f"codec {codec.name} cannot carry parameters to workers")
    return Wanted(
        header.worker,
        header.incarnation,
        codec,
        stage_of_frame(header.reply_lossless),
        header.position,
    )


def check_sections(header: Header, length: int, coder: Coder, shard: Shard) -> None:
    """Sizes are known before a byte of the body is read, so no frame can make us allocate more."""
    if length != HEADER_BYTES + header.body_bytes:
        raise FrameError(f"the frame says {header.body_bytes} bytes of body, the request differs")
    limit = 0 if Flag.NONFINITE in header.flags else coder.payload_limit
    if header.payload_bytes > limit:
        raise FrameError(
            f"shard {header.shard} has {len(shard.parameters)} parameters: a {coder.codec.name} "
            f"payload of a {header.flags!r} push is at most {limit} bytes, "
            f"got {header.payload_bytes}"
        )
    if header.buffers_bytes not in (0, shard.buffers.nbytes):
        raise FrameError(
            f"buffers are {shard.buffers.nbytes} bytes or none, got {header.buffers_bytes}"
        )
    if header.counters_bytes not in (0, len(shard.counters)):
        raise FrameError(
            f"counters are {len(shard.counters)} bytes or none, got {header.counters_bytes}"
        )


def push_of(header: Header, body: memoryview, coder: Coder, model: Float32Array | None) -> Push:
    """The push in a body, whose payload stays where it is. Raises FrameError as `Coder.open`.

    model: what the worker computed on, see `Push`.
    """
    buffers_at = header.payload_bytes
    counters_at = buffers_at + header.buffers_bytes
    opened: Opened | None = None
    if Flag.NONFINITE not in header.flags:
        opened = coder.open(body[:buffers_at])
    buffers = body[buffers_at:counters_at]
    counters = body[counters_at:]
    return Push(
        worker=header.worker,
        incarnation=header.incarnation,
        sequence=header.sequence,
        version=header.version,
        samples=header.samples,
        opened=opened,
        # Copied: unlike a payload, they may be kept longer than the body.
        buffers=np.frombuffer(bytes(buffers), "<f4") if header.buffers_bytes else None,
        counters=bytes(counters) if header.counters_bytes else None,
        model=model,
    )


def reply_of(
    request: Header,
    outcome: Outcome,
    publication: Publication | None,
    shard: Shard,
    receive_seconds: float,
) -> tuple[Header, list[Buffer]]:
    """A reply's header and sections. publication: None tells the worker to ask again."""
    payload: list[Buffer] = []
    buffers: Buffer = b""
    counters: Buffer = b""
    has_buffers = request.buffers_version
    if publication is not None:
        payload = list(publication.parts)
        if Flag.BUFFERS in request.flags and request.buffers_version != shard.buffers_version:
            buffers, counters = shard.buffers.tobytes(), shard.counters
            has_buffers = shard.buffers_version
    header = Header(
        kind=Kind.REPLY,
        shard=request.shard,
        worker=request.worker,
        incarnation=request.incarnation,
        sequence=request.sequence,
        version=publication.version if publication else shard.version,
        clock=outcome.clock,
        codec=publication.codec.id if publication else 0,
        codec_parameters=publication.codec.parameters() if publication else bytes(8),
        lossless=publication.lossless.id if publication else 0,
        status=outcome.status,
        content=publication.content if publication else Content.NONE,
        deltas=publication.deltas if publication else 0,
        position=publication.position if publication else NO_POSITION,
        digest=publication.digest if publication else 0,
        staleness=outcome.staleness,
        lag=outcome.lag,
        receive_microseconds=min(round(1e6 * receive_seconds), _LARGEST_U32),
        buffers_version=has_buffers,
        payload_bytes=publication.payload_bytes if publication else 0,
        buffers_bytes=len(buffers),
        counters_bytes=len(counters),
    )
    return header, [*payload, buffers, counters]
