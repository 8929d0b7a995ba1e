"""psedge: train PyTorch models on the machines you already own.

`connect` turns an existing training loop into a worker, `run` does a whole experiment. Importing
psedge imports neither; torch is imported with the first of them that is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psedge.protocol.errors import PsedgeError, TrainingError, UserError
from psedge.protocol.version import __version__

if TYPE_CHECKING:
    from psedge.api import Connection, aconnect, connect
    from psedge.running import run
    from psedge.worker.client import StopTraining

__all__ = [
    "Connection",
    "PsedgeError",
    "StopTraining",
    "TrainingError",
    "UserError",
    "__version__",
    "aconnect",
    "connect",
    "run",
]

_HOMES = {
    "Connection": "psedge.api",
    "StopTraining": "psedge.worker.client",
    "aconnect": "psedge.api",
    "connect": "psedge.api",
    "run": "psedge.running",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is used: servers import psedge, too."""
    if name not in _HOMES:
        raise AttributeError(f"module 'psedge' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
