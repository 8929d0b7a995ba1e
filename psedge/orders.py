"""What a user asked for on the command line of the commands that train."""

from __future__ import annotations

from pathlib import Path

import msgspec


class RunOrder(msgspec.Struct, frozen=True):
    """`psedge run`. from_checkpoint: with resume, goes back there even if servers have more."""

    config: Path
    overrides: tuple[str, ...] = ()
    out: Path | None = None
    resume: bool = False
    data: Path = Path("data")
    device: str = "auto"
    allow: tuple[str, ...] = ()
    from_checkpoint: bool = False


class ServerOrder(msgspec.Struct, frozen=True, kw_only=True):
    """`psedge server`. store: folder of its logs; None takes the default."""

    config: Path | None = None
    overrides: tuple[str, ...] = ()
    join: str | None = None
    host: str | None = None
    port: int | None = None
    out: Path | None = None
    resume: bool = False
    store: Path | None = None
    data: Path = Path("data")
    with_parent: bool = False
    from_checkpoint: bool = False
