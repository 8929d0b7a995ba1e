"""A message with log entries, primary to backup: a JSON Append behind its length, and entries."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from psedge.protocol.calls import decoded
from psedge.protocol.errors import FrameError
from psedge.protocol.log_entry import Entry, encode_entry
from psedge.protocol.ports import Buffer
from psedge.protocol.replicas import REPLICA_APPEND, Append

#: Before the head stands its length.
LENGTH_BYTES = 4
#: Longest head: four numbers and their names.
HEAD_LIMIT_BYTES = 1024


def append_parts(message: Append, entries: Sequence[Entry]) -> list[Buffer]:
    """The body of a request to REPLICA_APPEND; the bodies of the entries are not copied."""
    head = msgspec.json.encode(message)
    parts: list[Buffer] = [len(head).to_bytes(LENGTH_BYTES, "little") + head]
    for entry in entries:
        parts += encode_entry(entry)
    return parts


def head_length(data: Buffer, body_bytes: int) -> int:
    """How long the head is, from the first LENGTH_BYTES of a body of `body_bytes`.

    Raises FrameError if that cannot be.
    """
    length = int.from_bytes(data, "little")
    if length > min(HEAD_LIMIT_BYTES, body_bytes - LENGTH_BYTES):
        raise FrameError(f"{REPLICA_APPEND}: a head of {length} bytes is too long")
    return length


def head_of(data: Buffer) -> Append:
    """Raises FrameError if it is none."""
    return decoded(data, Append, REPLICA_APPEND)
