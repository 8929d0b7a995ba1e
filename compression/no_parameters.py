"""Codecs whose id says all that a decoder has to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from psedge.protocol.errors import FrameError

if TYPE_CHECKING:
    from typing_extensions import Self

_NONE = bytes(8)


class NoParameters:
    """A codec whose eight bytes of parameters in a frame are zeros."""

    name: ClassVar[str]

    @classmethod
    def of_parameters(cls, parameters: bytes) -> Self:
        """Raises FrameError for parameters of another version of the codec."""
        if parameters != _NONE:
            raise FrameError(f"codec {cls.name} does not know parameters {parameters.hex()}")
        return cls()

    def parameters(self) -> bytes:
        return _NONE
