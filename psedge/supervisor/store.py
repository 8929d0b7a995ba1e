"""Where the supervisor keeps what it must remember over its own death: keys and bytes.

The interface is small on purpose. One process on one machine needs no more than a file
(`sqlite_store.py`); a store that several machines share, such as etcd, can stand in for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from psedge.protocol.errors import TrainingError


class LeftAloneError(TrainingError):
    """This supervisor ends and its run does not: nobody is to hear from it that it has ended."""


class ConflictError(LeftAloneError):
    """Another supervisor has written since: what this one would write is out of date."""


class StoreError(TrainingError):
    """Nothing could be written for now, for instance because the disk is full; all is as before."""


class StateStore(Protocol):
    """Rows of bytes by key, all of which fit into memory."""

    async def read(self) -> dict[str, bytes]:
        """All rows. Raises StoreError when they cannot be had for now."""
        ...

    async def commit(
        self,
        writes: Mapping[str, bytes | None],
        *,
        expect: Mapping[str, bytes | None] | None = None,
    ) -> None:
        """Write all rows or none; None removes one. When this returns they survive a power cut.

        expect: the values that some rows must have at that moment, None: there must be none.
        A store may also refuse every commit of a holder that was opened before another one.
        Raises ConflictError when it is otherwise, StoreError when nothing could be written.
        """
        ...

    async def close(self) -> None:
        """Let go of it; commits that were under way are finished first."""
        ...
