"""What codecs and lossless stages cost and save on this machine, measured on a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from psedge.compression.codec import Codec, EncoderState, Float32Array
from psedge.compression.identity import Identity
from psedge.compression.lossless import Lossless, NoStage
from psedge.protocol.layout import Slice, TensorSlice
from psedge.protocol.ports import Buffer

#: A sample need not be longer: codecs that go through memory in one pass cost the same per element.
SAMPLE_ELEMENTS = 131_072
#: Of a payload, what lossless stages are tried on.
STAGE_SAMPLE_BYTES = 65_536
#: The shortest of so many tries counts; the others were disturbed.
TRIES = 2
#: Length of a row where a codec sees the sample as a matrix.
_COLUMNS = 256

Now = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Speed:
    """One codec with one lossless stage. All figures are per element."""

    codec: str
    lossless: str
    bytes: float
    encode_seconds: float
    decode_seconds: float


class Measure(Protocol):
    """Whatever knows what codecs and lossless stages cost a worker, and save it."""

    def __call__(
        self, codecs: Sequence[Codec], stages: Sequence[Lossless], sample: Float32Array
    ) -> list[Speed]:
        """Every codec with every stage, in this order, on a sample without NaN or Inf."""
        ...


def measure(
    codecs: Sequence[Codec], stages: Sequence[Lossless], sample: Float32Array, now: Now
) -> list[Speed]:
    """Every codec with every stage, on up to SAMPLE_ELEMENTS of the sample, which must be finite.

    now: a clock in seconds.
    """
    values = np.ascontiguousarray(sample[:SAMPLE_ELEMENTS], np.float32)
    speeds: list[Speed] = []
    for codec in codecs:
        speeds += _measure_codec(codec, stages, values, now)
    return speeds


def _measure_codec(
    codec: Codec, stages: Sequence[Lossless], values: Float32Array, now: Now
) -> list[Speed]:
    count = len(values)
    rows = max(1, count // _COLUMNS) * _COLUMNS
    piece = Slice(0, count, (TensorSlice(0, count, _COLUMNS if rows == count else count),))
    residual = None if isinstance(codec, Identity) else np.zeros_like(values)
    state, out = EncoderState(), np.zeros_like(values)
    encode = decode = float("inf")
    body = b""
    for _ in range(TRIES):
        started = now()
        parts = codec.encode(values, residual, piece, state).parts
        encoded = now()
        state.payloads += 1
        body = b"".join(parts)
        payload = np.frombuffer(body, np.uint8)
        before = now()
        codec.decode_accumulate(payload, piece, 1.0, out)
        encode, decode = min(encode, encoded - started), min(decode, now() - before)
    return [_with_stage(codec, stage, body, count, encode, decode, now) for stage in stages]


def _with_stage(
    codec: Codec,
    stage: Lossless,
    body: Buffer,
    count: int,
    encode: float,
    decode: float,
    now: Now,
) -> Speed:
    size = float(len(body))
    if not isinstance(stage, NoStage) and size:
        part = bytes(memoryview(body)[:STAGE_SAMPLE_BYTES])
        started = now()
        packed = stage.compress(part)
        between = now()
        stage.decompress(memoryview(packed), len(part))
        ended = now()
        scale = size / len(part)
        encode += scale * (between - started)
        decode += scale * (ended - between)
        size *= len(packed) / len(part)
    per = 1.0 / max(count, 1)
    return Speed(codec.name, stage.name, size * per, encode * per, decode * per)
