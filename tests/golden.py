"""Golden files: bytes that must never change unless the wire version does.

A missing file is a failure, not an occasion to write it: `python tests/update_golden.py` does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from psedge.protocol.wire import Flag, Header, Kind, Status

FOLDER = Path(__file__).parent / "golden"

CODEC_VALUES = np.array(
    [0, -0.0, 1, -1, 0.1, -1 / 3, 65504, -65504, 1e-4, 6.1e-5, 6e-5, 5.96e-8, -2.98e-8, 1e-9, 2049]
    + [index * 0.37 - 3 for index in range(17)],
    np.float32,
)

FRAMES = {
    "frame-exchange.bin": Header(
        kind=Kind.EXCHANGE, flags=Flag.GATED, shard=2, worker=5, incarnation=0x0102030405060708,
        sequence=77, version=1234, samples=64, codec=1, reply_codec=0,
        codec_parameters=b"\x01\x02\x03\x04\x05\x06\x07\x08", buffers_version=9,
        payload_bytes=6, buffers_bytes=8, counters_bytes=3,
    ),
    "frame-pull.bin": Header(kind=Kind.PULL, shard=0, worker=1, incarnation=3, reply_codec=1),
    "frame-reply.bin": Header(
        kind=Kind.REPLY, shard=65535, worker=2**32 - 1, incarnation=2**64 - 1, version=2**40,
        clock=78, status=Status.REFUSED_LAG, staleness=3, lag=21, codec=1, buffers_version=10,
        payload_bytes=2**32 - 1,
    ),
}  # fmt: skip


def check_golden(name: str, content: bytes) -> None:
    path = FOLDER / name
    assert path.exists(), f"{path} is missing: run `python tests/update_golden.py`, then read it"
    assert path.read_bytes().hex() == content.hex()
