"""Which versions of psedge may work together: those that speak the same wire version."""

from __future__ import annotations

from psedge.protocol.errors import RefusedError
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION


def require_same_wire(psedge: str, wire: int) -> None:
    """Raises RefusedError `version-differs`, naming both versions."""
    if wire != WIRE_VERSION:
        raise RefusedError(
            "version-differs",
            f"psedge {psedge} speaks wire version {wire}, the server's psedge {__version__} "
            f"speaks {WIRE_VERSION}: install the same psedge on every machine",
        )
