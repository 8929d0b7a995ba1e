"""Which codecs exist: an explicit table, by id for frames and by name for configs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from psedge.compression.adacomp import AdaComp
from psedge.compression.bfloat16 import Bfloat16
from psedge.compression.codec import Codec
from psedge.compression.ecsq import Ecsq
from psedge.compression.float16 import Float16
from psedge.compression.identity import Identity
from psedge.compression.power_sgd import PowerSgd
from psedge.compression.q4 import Q4
from psedge.compression.q8 import Q8
from psedge.compression.sign import Sign
from psedge.compression.ternary import Ternary
from psedge.compression.top_k import TopK
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import FrameError

if TYPE_CHECKING:
    from typing_extensions import Self


class TableCodec(Codec, Protocol):
    """A codec that settings and frames can ask for."""

    @classmethod
    def of_settings(cls, settings: CodingSettings) -> Self:
        """The codec as a sender uses it."""
        ...

    @classmethod
    def of_parameters(cls, parameters: bytes) -> Self:
        """The codec as a receiver uses it. Raises FrameError for parameters it does not know."""
        ...


CODECS: tuple[type[TableCodec], ...] = (
    Identity,
    Float16,
    Bfloat16,
    Q8,
    Q4,
    Ternary,
    Sign,
    Ecsq,
    TopK,
    AdaComp,
    PowerSgd,
)

#: Names of what workers may send, and of what they may receive: sparse and low-rank codecs are for
#: gradients, whose rest waits in a residual; a model has none.
PUSH_CODECS = tuple(codec.name for codec in CODECS)
PULL_CODECS = ("identity", "float16", "bfloat16", "q8", "q4", "ternary", "sign", "ecsq")

_BY_ID = {codec.id: codec for codec in CODECS}
_BY_NAME = {codec.name: codec for codec in CODECS}


def codec_named(name: str, settings: CodingSettings | None = None) -> Codec:
    """The codec a config asks for. Raises KeyError for an unknown name."""
    return _BY_NAME[name].of_settings(settings or CodingSettings())


def codec_of_frame(codec_id: int, parameters: bytes) -> Codec:
    """The codec a frame's header names.

    Raises FrameError for an unknown id or parameters that the codec does not know.
    """
    if codec_id not in _BY_ID:
        raise FrameError(f"unknown codec id {codec_id}; known are {sorted(_BY_ID)}")
    return _BY_ID[codec_id].of_parameters(parameters)
