"""Golden files: bytes that must never change unless the wire version does.

A missing file is a failure, not an occasion to write it: `python tests/update_golden.py` does.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from psedge.compression.codec import Codec, EncoderState
from psedge.compression.q4 import Q4
from psedge.compression.q8 import Q8
from psedge.compression.table import CODECS, codec_named
from psedge.protocol.layout import Slice, TensorSlice
from psedge.protocol.log_entry import Entry, EntryKind, encode_entry
from psedge.protocol.wire import NO_POSITION, Content, Flag, Header, Kind, Status, encode_header
from psedge.server.segment import SegmentHeader, encode_segment_header

FOLDER = Path(__file__).parent / "golden"

#: Small and large values, ties, and three buckets of values that any platform divides alike.
CODEC_VALUES = np.array(
    [0, -0.0, 1, -1, 0.1, -1 / 3, 65504, -65504, 1e-4, 6.1e-5, 6e-5, 5.96e-8, -2.98e-8, 1e-9, 2049]
    + [index * 0.37 - 3 for index in range(17)]
    + [(index**2 * 37 % 1009 - 504) / 2 ** (index * 7 % 19) for index in range(668)],
    np.float32,
)
CODEC_SLICE = Slice(512, 700, (TensorSlice(0, 400, 20), TensorSlice(400, 700, 30)))

#: Codecs by the names of their files; SHA-256 of what the payloads decode to is in one more file.
GOLDEN_CODECS = {
    **{kind.name: codec_named(kind.name) for kind in CODECS},
    "q8-stochastic": Q8(rounding="stochastic"),
    "q4-stochastic": Q4(rounding="stochastic"),
}
CODECS_DECODED = "codecs-decoded.json"

FRAMES = {
    "frame-exchange.bin": Header(
        kind=Kind.EXCHANGE, flags=Flag.GATED | Flag.BUFFERS, shard=2, term=7, worker=5,
        incarnation=0x0102030405060708, sequence=77, version=1234, samples=64, codec=10, lossless=2,
        reply_codec=4, reply_lossless=3,
        codec_parameters=b"\x01\x02\x03\x04\x05\x06\x07\x08", buffers_version=9, position=41,
        payload_bytes=6, buffers_bytes=8, counters_bytes=3,
    ),
    "frame-pull.bin": Header(
        kind=Kind.PULL, shard=0, term=2**32 - 1, worker=1, incarnation=3, reply_codec=1,
        position=NO_POSITION,
    ),
    "frame-reply.bin": Header(
        kind=Kind.REPLY, shard=65535, worker=2**32 - 1, incarnation=2**64 - 1, version=2**40,
        clock=78, status=Status.REFUSED_LAG, content=Content.DELTAS, deltas=513, staleness=3,
        lag=21, codec=4, lossless=1, receive_microseconds=123456, buffers_version=10, position=43,
        digest=0x1122334455667788, payload_bytes=2**32 - 1,
    ),
}  # fmt: skip

SEGMENT_FILE = "segment.log"
SEGMENT_HEADER = SegmentHeader(
    run="0123456789abcdef", shard=2, lineage=3, first=1000, term_before=7
)
#: One of each kind.
GOLDEN_ENTRIES = [
    Entry(1000, 7, EntryKind.PUSH, encode_header(FRAMES["frame-exchange.bin"]) + bytes(range(17))),
    Entry(1001, 8, EntryKind.TERM),
    Entry(1002, 8, EntryKind.MEMBERS, b'{"revision":5,"members":[]}'),
    Entry(1003, 8, EntryKind.DIGEST, 0x1122334455667788.to_bytes(8, "little")),
]


def golden_segment() -> bytes:
    parts = [part for entry in GOLDEN_ENTRIES for part in encode_entry(entry)]
    return encode_segment_header(SEGMENT_HEADER) + b"".join(parts)


def check_golden(name: str, content: bytes) -> None:
    path = FOLDER / name
    assert path.exists(), f"{path} is missing: run `python tests/update_golden.py`, then read it"
    assert path.read_bytes().hex() == content.hex()


def golden_payload(codec: Codec) -> bytes:
    parts = codec.encode(CODEC_VALUES, None, CODEC_SLICE, EncoderState(seed=7)).parts
    return b"".join(parts)


def decoded_digest(codec: Codec, payload: bytes) -> str:
    out = np.empty(CODEC_SLICE.coded, np.float32)
    codec.decode(np.frombuffer(payload, np.uint8), CODEC_SLICE, out)
    return hashlib.sha256(out.tobytes()).hexdigest()
