"""What the `[compression]` section of an experiment may say."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

CodecName = Literal["identity", "float16"]


class CompressionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How updates and parameters travel between workers and servers."""

    push: Annotated[
        CodecName,
        Meta(
            description="Codec of what workers send. `identity` is float32, 4 bytes a parameter. "
            "`float16` halves that; what rounding drops is kept and sent with the next push "
            "(error feedback), so nothing is lost in the sum."
        ),
    ] = "identity"
    pull: Annotated[
        CodecName,
        Meta(
            description="Codec of what workers receive. `float16` halves it; workers then compute "
            "on parameters rounded to 11 bits while the servers keep float32."
        ),
    ] = "identity"
