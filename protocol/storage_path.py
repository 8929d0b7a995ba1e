"""Which paths a Storage takes: those below its root, and nothing that could lead out of it."""

from __future__ import annotations

from pathlib import PurePosixPath

#: What a crash may leave of an unfinished write ends so; it is no file that anyone has written.
DRAFT_SUFFIX = ".psedge-draft"


def parts_below(path: str, root: str, *, root_allowed: bool = False) -> tuple[str, ...]:
    """The names on the way from the root to `path`; none for the root itself, if that is allowed.

    root: named in the message. Raises ValueError for a path that is absolute, empty, holds a NUL
    or goes up through `..`.
    """
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts or "\0" in path:
        raise ValueError(f"{path!r} leaves the folder {root}")
    if not relative.parts and not root_allowed:
        raise ValueError("the path is empty")
    return relative.parts
