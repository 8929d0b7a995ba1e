"""Where commands find modules that a user has written."""

from __future__ import annotations

import sys
from pathlib import Path


def import_from_here() -> None:
    """Let `module:function` name modules of the current folder, last of all."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
