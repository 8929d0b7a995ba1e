"""Where a config's data may lie on this machine: beneath the folder its operator chose.

A config comes over the network. Without this a supervisor could have a worker train on, and so
give away, any file that it can read.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from psedge.protocol.errors import DataError


def leaves_folder(path: str) -> bool:
    """Whether a path, of this or another system, could name a place outside of its folder."""
    for kind in (PurePosixPath(path), PureWindowsPath(path)):
        if kind.anchor or ".." in kind.parts or path.startswith("~"):
            return True
    return False


def beneath(folder: Path, path: str) -> Path:
    """`path` in the data folder. Raises DataError if it leads out of it."""
    if leaves_folder(path):
        raise DataError(
            f"data.path = {path!r} leads out of the data folder; name a place beneath it, and "
            "start the worker with `--data DIR` to choose another folder"
        )
    return folder / path
