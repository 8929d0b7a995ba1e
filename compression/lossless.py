"""Lossless stages: what may be put on top of a codec's payload, per link.

lz4 is fast and gains on floats a little, on quantized gradients next to nothing; zstd takes a third
off a 4-bit payload; deflate, Huffman codes alone, is in every Python and stands in for zstd where
that is not installed. Which one pays depends on the link: `choice.py` decides.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from psedge.protocol.errors import FrameError
from psedge.protocol.ports import Buffer

try:
    import lz4.block as _lz4
except ImportError:
    lz4_block: Any = None
else:
    lz4_block = _lz4

try:
    import zstandard as _zstandard
except ImportError:
    zstandard: Any = None
else:
    zstandard = _zstandard

#: Quantized gradients repeat no phrases except runs of zeros, so zstd shall hardly look for them:
#: its entropy coder alone does better than level 1 (1.20 against 1.37 bits a value of ecsq) and
#: takes half the time.
_ZSTD = {"min_match": 7, "hash_log": 6, "window_log": 17}


class Lossless(Protocol):
    id: ClassVar[int]
    name: ClassVar[str]

    def compress(self, payload: Buffer) -> Buffer:
        """`payload` in a form that `decompress` undoes; it may be longer."""
        ...

    def decompress(self, payload: memoryview, limit_bytes: int) -> Buffer:
        """What was compressed. Raises FrameError if it is damaged or longer than the limit."""
        ...


class NoStage:
    """The payload as it is."""

    id: ClassVar[int] = 0
    name: ClassVar[str] = "none"

    def compress(self, payload: Buffer) -> Buffer:
        return payload

    def decompress(self, payload: memoryview, limit_bytes: int) -> Buffer:
        if len(payload) > limit_bytes:
            raise FrameError(f"payload of {len(payload)} bytes, at most {limit_bytes} fit")
        return payload


class Lz4:
    """LZ4 blocks behind their length (4 bytes, little-endian)."""

    id: ClassVar[int] = 1
    name: ClassVar[str] = "lz4"

    def compress(self, payload: Buffer) -> Buffer:
        compressed: bytes = lz4_block.compress(payload, store_size=True)
        return compressed

    def decompress(self, payload: memoryview, limit_bytes: int) -> Buffer:
        _check_length(int.from_bytes(payload[:4], "little"), limit_bytes)
        try:
            whole: bytes = lz4_block.decompress(payload)
        except (ValueError, lz4_block.LZ4BlockError) as error:
            raise FrameError(f"lz4 payload is damaged: {error}") from error
        return whole


class Zstd:
    """One zstd frame that says how long its content is."""

    id: ClassVar[int] = 2
    name: ClassVar[str] = "zstd"

    def compress(self, payload: Buffer) -> Buffer:
        settings = zstandard.ZstdCompressionParameters.from_level(1, **_ZSTD)
        compressed: bytes = zstandard.ZstdCompressor(compression_params=settings).compress(payload)
        return compressed

    def decompress(self, payload: memoryview, limit_bytes: int) -> Buffer:
        try:
            _check_length(zstandard.frame_content_size(payload), limit_bytes)
            plain = zstandard.ZstdDecompressor()
            whole: bytes = plain.decompress(payload, allow_extra_data=False)
        except (zstandard.ZstdError, MemoryError) as error:
            raise FrameError(f"zstd payload is damaged: {error}") from error
        return whole


class Deflate:
    """Raw DEFLATE (RFC 1951) of Huffman codes without matches, which find nothing in gradients."""

    id: ClassVar[int] = 3
    name: ClassVar[str] = "deflate"

    def compress(self, payload: Buffer) -> Buffer:
        stream = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
        return stream.compress(payload) + stream.flush()

    def decompress(self, payload: memoryview, limit_bytes: int) -> Buffer:
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            whole = stream.decompress(payload, limit_bytes + 1)
        except zlib.error as error:
            raise FrameError(f"deflate payload is damaged: {error}") from error
        _check_length(len(whole), limit_bytes)
        if not stream.eof or stream.unused_data:
            raise FrameError("deflate payload does not end where it should")
        return whole


_INSTALLED: dict[type[Any], bool] = {
    NoStage: True,
    Lz4: lz4_block is not None,
    Zstd: zstandard is not None,
    Deflate: True,
}
STAGES: tuple[type[Lossless], ...] = (NoStage, Lz4, Zstd, Deflate)
_BY_ID = {stage.id: stage for stage in STAGES}
_BY_NAME = {stage.name: stage for stage in STAGES}
#: Stages keep nothing, so that one of each does for all.
_MADE: dict[type[Lossless], Lossless] = {stage: stage() for stage in STAGES}


def available() -> tuple[str, ...]:
    """Names of the stages that this machine can do and undo."""
    return tuple(stage.name for stage in STAGES if _INSTALLED[stage])


def stage_named(name: str) -> Lossless:
    """The stage a config asks for. Raises KeyError unless it is among `available()`."""
    stage = _BY_NAME[name]
    if not _INSTALLED[stage]:
        raise KeyError(name)
    return _MADE[stage]


def stage_of_frame(stage_id: int) -> Lossless:
    """The stage a frame's header names; raises FrameError if this machine cannot undo it."""
    stage = _BY_ID.get(stage_id)
    if stage is None:
        raise FrameError(f"unknown lossless stage {stage_id}; known are {sorted(_BY_ID)}")
    if not _INSTALLED[stage]:
        raise FrameError(
            f'the payload is compressed with {stage.name}: pip install "psedge[{stage.name}]" here'
        )
    return _MADE[stage]


def best_entropy_coder(common: Sequence[str]) -> str:
    """What is put on symbols that need an entropy coder: zstd where both ends have it."""
    return Zstd.name if Zstd.name in common else Deflate.name


def _check_length(length: int, limit_bytes: int) -> None:
    if not 0 <= length <= limit_bytes:
        raise FrameError(f"payload of {length} bytes when decompressed, at most {limit_bytes} fit")
