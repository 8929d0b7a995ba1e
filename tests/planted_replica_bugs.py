"""Bugs to plant in what keeps copies and logs of shards right; see `planted_bugs.py`."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from psedge.protocol.errors import FrameError, RefusedError
from psedge.protocol.log_entry import Entry, decode_entry
from psedge.protocol.replicas import Reign
from psedge.server import log_reader
from psedge.server.copies import Copies
from psedge.server.peer_table import PeerTable
from psedge.server.replica import Replica
from psedge.server.segment import Entries
from psedge.supervisor import failover

#: So many entries are looked for behind a damaged one.
LOOK_AHEAD = 64


@contextmanager
def replaced(place: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Put make(original) in the place of an attribute."""
    original = place.__dict__[name]
    setattr(place, name, make(original))
    try:
        yield
    finally:
        setattr(place, name, original)


@contextmanager
def old_terms_are_accepted() -> Iterator[None]:
    """Nobody minds that a term is over: neither for pushes, nor for entries and images."""

    def make(original: Any) -> Any:
        def require_part(self: Copies, reign: Reign) -> None:
            with suppress(RefusedError):
                original(self, reign)

        return require_part

    with (
        replaced(Replica, "_require_term", lambda _: lambda self, term: None),
        replaced(Replica, "require_primary", lambda _: lambda self, term: None),
        replaced(Copies, "_require_part", make),
    ):
        yield


def acknowledged_before_replicated() -> Any:
    """What the primary has counts, whether or not a backup has it."""
    return replaced(PeerTable, "acknowledged", lambda _: lambda self, own, lease_holds: own)


def lease_is_not_honoured() -> Any:
    """A primary goes on as if its lease lasted for ever."""

    def make(original: Any) -> Any:
        def acknowledged(self: PeerTable, own: int, *, lease_holds: bool) -> Any:
            return original(self, own, lease_holds=True)

        return acknowledged

    return replaced(PeerTable, "acknowledged", make)


@contextmanager
def lagging_backup_is_promoted() -> Iterator[None]:
    """Of the copies that answer, the one that has seen least takes over."""

    def least(*things: Any, key: Any = None) -> Any:
        return builtins.max(*things) if key is None else builtins.min(*things, key=key)

    failover.max = least  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del failover.max  # type: ignore[attr-defined]


def image_passes_for_a_newer_one() -> Any:
    """An image says that it is of the latest entry, and is of the beginning of a round."""

    def make(original: Any) -> Any:
        def order(self: Replica) -> Any:
            made, arrays = original(self)
            return msgspec.structs.replace(made, at=self.at, terms=self.terms), arrays

        return order

    return replaced(Replica, "order", make)


def damaged_entries_are_skipped() -> Any:
    """A log goes on behind an entry that is not whole, as if that had never been."""

    def make(original: Any) -> Any:
        def decode_segment(data: memoryview, first: int, term_before: int) -> Entries:
            found = original(data, first, term_before)
            behind = data[len(data) - found.lost_bytes :]
            entries = list(found.entries)
            for index in range(first + len(entries) + 1, first + len(entries) + LOOK_AHEAD):
                entry = _entry_in(behind, index)
                if entry is not None:
                    moved = msgspec.structs.replace(entry, index=first + len(entries))
                    entries.append(moved)
            return Entries(entries)

        return decode_segment

    return replaced(log_reader, "decode_segment", make)


def _entry_in(data: memoryview, index: int) -> Entry | None:
    """The whole entry of this index, wherever it begins."""
    at = bytes(data).find(index.to_bytes(8, "little"))
    if at < 0:
        return None
    with suppress(FrameError):
        return decode_entry(data[at:])
    return None


#: name in the table: how to plant it.
PLANTED_IN_REPLICAS: dict[str, Callable[[], Any]] = {
    "entries and pushes of an old term are accepted": old_terms_are_accepted,
    "a push is acknowledged before a backup has it": acknowledged_before_replicated,
    "a log is read on behind an entry that is not whole": damaged_entries_are_skipped,
    "the backup that lags behind is promoted": lagging_backup_is_promoted,
    "a stale image passes for a newer one": image_passes_for_a_newer_one,
    "a primary does not mind that its lease has ended": lease_is_not_honoured,
}
