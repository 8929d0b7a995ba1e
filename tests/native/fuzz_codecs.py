"""Damaged payloads of every codec and lossless stage, as a receiver would open and decode them.

python tests/native/fuzz_codecs.py [N] [SEED]

Each must end in a FrameError, or decode: a payload that passes its check decodes without an error,
into values no larger than the check said, and nothing else is ever raised.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from psedge.compression.codec import EncoderState
from psedge.compression.coder import Coder, Opened, apply
from psedge.compression.lossless import available, stage_named
from psedge.compression.step import Step
from psedge.compression.table import CODECS, codec_named
from psedge.protocol.errors import FrameError
from psedge.protocol.layout import Slice, TensorSlice

LIMIT = 1e6


def slices() -> list[Slice]:
    """Matrices and a tail; a slice that starts within a matrix; one without any matrix."""
    return [
        Slice(0, 1000, (TensorSlice(0, 640, 64), TensorSlice(640, 970, 33))),
        Slice(512, 700, (TensorSlice(0, 100, 48), TensorSlice(100, 690, 59))),
        Slice(0, 20, ()),
    ]


def honest(draw: np.random.Generator) -> list[tuple[Coder, bytes]]:
    found = []
    for codec in CODECS:
        for stage in available():
            for piece in slices():
                coder = Coder(codec_named(codec.name), stage_named(stage), piece)
                values = draw.standard_t(2.0, piece.elements).astype(np.float32)
                residual = np.zeros_like(values)
                encoded = coder.encode(values, residual, EncoderState())
                found.append((coder, b"".join(bytes(part) for part in encoded.parts)))
    return found


def damaged(draw: np.random.Generator, payload: bytes) -> bytes:
    content = bytearray(payload)
    for _ in range(int(draw.integers(0, 4))):
        size = len(content)
        match int(draw.integers(0, 6)):
            case 0:
                del content[int(draw.integers(0, size + 1)) :]
            case 1:
                content += draw.bytes(int(draw.integers(1, 9)))
            case 2:
                # The first bytes are where counts and lengths stand.
                content[: min(4, size)] = draw.bytes(min(4, size))
            case 3 if size:
                place = int(draw.integers(0, size))
                content[place : place + 8] = draw.bytes(min(8, size - place))
            case _ if size:
                content[int(draw.integers(0, size))] ^= 1 << int(draw.integers(0, 8))
    return bytes(content)


def receive(coder: Coder, payload: bytes) -> str:
    """What became of it: refused, too large, decoded."""
    try:
        opened = coder.open(memoryview(payload))
        fits = opened.check(LIMIT)
    except FrameError:
        return "refused"
    if not fits:
        return "too large"
    decode(opened)
    return "decoded"


def decode(opened: Opened) -> None:
    """Every way of decoding; what has passed its check raises nothing and keeps to its limit."""
    elements = opened.piece.elements
    out = np.zeros(elements, np.float32)
    opened.decode_accumulate(1.0, out)
    assert np.isfinite(out).all()
    assert not elements or float(np.abs(out).max()) <= LIMIT * (1 + 1e-5)
    opened.decode(out)
    settings = np.array([[0.1, 0.0, 0.9, 1.0, 0.0]], np.float32)
    stops = np.array([elements], np.int64)
    step = Step("sgd", out, (np.zeros(elements, np.float32),), stops, settings)
    apply([opened, opened], [0.5, 1.0], step)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    draw = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    payloads = honest(draw)
    started = time.perf_counter()
    ends: Counter[str] = Counter()
    for index in range(count):
        coder, payload = payloads[index % len(payloads)]
        given = damaged(draw, payload)
        try:
            ends[receive(coder, given)] += 1
        except Exception as error:
            name = f"{coder.codec.name} + {coder.lossless.name}, {coder.piece.elements} values"
            print(f"{name}: {type(error).__name__}: {error}\n{given.hex()}")
            return 1
    seconds = time.perf_counter() - started
    print(f"{count} payloads: {dict(ends)}, {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
