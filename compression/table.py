"""Which codecs exist: an explicit table, by id for frames and by name for configs."""

from __future__ import annotations

from psedge.compression.codec import Codec
from psedge.compression.float16 import Float16
from psedge.compression.identity import Identity
from psedge.protocol.errors import FrameError

CODECS: tuple[type[Codec], ...] = (Identity, Float16)

_BY_ID = {codec.id: codec for codec in CODECS}
_BY_NAME = {codec.name: codec for codec in CODECS}


def codec_named(name: str) -> Codec:
    """The codec a config asks for. Raises KeyError for an unknown name."""
    return _BY_NAME[name]()


def codec_of_frame(codec_id: int, parameters: bytes) -> Codec:
    """The codec a frame's header names.

    Raises FrameError for an unknown id or parameters that the codec does not know.
    """
    if codec_id not in _BY_ID:
        raise FrameError(f"unknown codec id {codec_id}; known are {sorted(_BY_ID)}")
    codec = _BY_ID[codec_id]()
    if parameters != codec.parameters():
        raise FrameError(f"codec {codec.name} does not know parameters {parameters.hex()}")
    return codec
