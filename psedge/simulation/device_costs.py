"""What encoding and decoding cost a virtual machine: counted work times a table of measured costs.

The table, `codec_costs.toml`, is written by `benchmarks/codec_costs.py` on the reference PC; other
machines take its times by factors. Sizes are never taken from it: codecs really run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from psedge.compression.codec import Codec, Float32Array
from psedge.compression.codec_speed import Speed, measure
from psedge.compression.coding_work import CodingWork
from psedge.compression.lossless import Lossless


@dataclasses.dataclass(frozen=True, slots=True)
class CodecCost:
    """Nanoseconds per element, by what is done; see CodingWork.

    stages: by lossless stage, to compress and to decompress this codec's payload.
    """

    encode_ns: float
    decode_ns: float
    apply_ns: float
    stages: Mapping[str, tuple[float, float]]
    publish_ns: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """machine: in words. request_seconds: a server's processor time per request beside codecs."""

    machine: str
    request_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class CostTable:
    """codecs: by name."""

    reference: Reference
    codecs: Mapping[str, CodecCost]


class Costs:
    """Of a machine that takes so many times as long as the table's.

    coding_factor: for codecs, which are vector instructions and memory. core_factor: for lossless
    stages and requests, which are neither.
    """

    def __init__(self, table: CostTable, coding_factor: float, core_factor: float) -> None:
        self._table = table
        self._coding_factor = coding_factor
        self._core_factor = core_factor

    @property
    def request_seconds(self) -> float:
        """Of a server's processor, for each request, beside codecs and update rule."""
        return self._core_factor * self._table.reference.request_seconds

    def seconds(self, work: CodingWork) -> float:
        """Of one core, for all that was counted."""
        codecs = self._table.codecs
        passes = packing = 0.0
        for (codec, stage), elements in work.encoded.items():
            passes += elements * codecs[codec].encode_ns
            packing += elements * codecs[codec].stages[stage][0]
        for (codec, stage), elements in work.decoded.items():
            passes += elements * codecs[codec].decode_ns
            packing += elements * codecs[codec].stages[stage][1]
        for (codec, stage), elements in work.applied.items():
            passes += elements * codecs[codec].apply_ns
            packing += elements * codecs[codec].stages[stage][1]
        for (codec, stage), elements in work.published.items():
            passes += elements * codecs[codec].publish_ns
            packing += elements * codecs[codec].stages[stage][0]
        return 1e-9 * (self._coding_factor * passes + self._core_factor * packing)

    def speeds(
        self, codecs: Sequence[Codec], stages: Sequence[Lossless], sample: Float32Array
    ) -> list[Speed]:
        """Every codec with every stage: sizes as measured on the sample, times as tabled."""
        return [self._timed(speed) for speed in measure(codecs, stages, sample, lambda: 0.0)]

    def _timed(self, speed: Speed) -> Speed:
        cost = self._table.codecs[speed.codec]
        packing = cost.stages[speed.lossless]
        return dataclasses.replace(
            speed,
            encode_seconds=1e-9
            * (self._coding_factor * cost.encode_ns + self._core_factor * packing[0]),
            decode_seconds=1e-9
            * (self._coding_factor * cost.decode_ns + self._core_factor * packing[1]),
        )
