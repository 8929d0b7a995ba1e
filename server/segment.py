"""A segment of a shard's log on disk: a header, then entries one behind the other.

`docs/log.md` has the byte table. A segment is only ever appended to, so what a power cut can do to
it is take bytes from its end; everything else is damage. No other module packs or unpacks segments.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import struct
from dataclasses import dataclass

import msgspec
import xxhash

from psedge.protocol.errors import DamagedError, FrameError
from psedge.protocol.log_entry import Entry, decode_entry
from psedge.protocol.ports import Buffer

SEGMENT_MAGIC = b"PSEDGLOG"
#: Of the format of segments and their entries.
LOG_VERSION = 1
#: magic, version, length of the run's identity, shard, lineage, index of the first entry, term of
#: the entry before it, XXH3-64 of all that and of the identity, which follows.
_HEADER = struct.Struct("<8sHHIQQQQ")
_CHECKED = _HEADER.size - 8
RUN_LIMIT_BYTES = 2**16 - 1

_NAME = re.compile(r"segment-(\d{20})\.log")
#: Entries behind a damaged one are looked for by their index: so many in a row may be missing,
_LOOK_AHEAD = 8
#: and so many places may look like one that are none.
_TRIES = 100


class SegmentHeader(msgspec.Struct, frozen=True):
    """What a segment belongs to.

    lineage: counts the beginnings of a shard's log in this folder: a copy that is made anew gets a
    higher one, and nothing of a lower one is ever combined with it.
    first: index of its first entry. term_before: of the entry before it, 0 if there is none.
    """

    run: str
    shard: int
    lineage: int
    first: int
    term_before: int


@dataclass(frozen=True, slots=True)
class Entries:
    """What of a segment can be read.

    entries: the whole ones up to the first that is not; their bodies stay where they are.
    lost_bytes: of what comes after them. after: at least so many whole entries are in there.
    why: what is wrong with the first entry that is lost; empty if the segment simply ends early.
    """

    entries: list[Entry]
    lost_bytes: int = 0
    after: int = 0
    why: str = ""


def segment_name(first: int) -> str:
    return f"segment-{first:020d}.log"


def first_of(name: str) -> int | None:
    """Index of a segment's first entry by the name of its file; None for any other file."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def encode_segment_header(header: SegmentHeader) -> bytes:
    run = header.run.encode()
    packed = _HEADER.pack(
        SEGMENT_MAGIC, LOG_VERSION, len(run), header.shard, header.lineage, header.first,
        header.term_before, 0,
    )[:_CHECKED]  # fmt: skip
    return packed + _checksum(packed, run) + run


def decode_segment_header(data: memoryview) -> tuple[SegmentHeader, memoryview]:
    """A segment's header, and the bytes of its entries.

    Raises DamagedError if it is not what was written, FrameError if it is no segment at all or one
    of another version.
    """
    if not len(data) or data[: len(SEGMENT_MAGIC)] != SEGMENT_MAGIC[: len(data)]:
        raise FrameError("it is no log segment")
    if len(data) < _HEADER.size:
        raise FrameError("it ends before its first entry")
    _, version, length, shard, lineage, first, term_before, _ = _HEADER.unpack_from(data)
    if version != LOG_VERSION:
        raise FrameError(f"it is of log version {version}; this psedge reads version {LOG_VERSION}")
    stop = _HEADER.size + length
    if len(data) < stop:
        raise FrameError("it ends before its first entry")
    run = bytes(data[_HEADER.size : stop])
    if data[_CHECKED : _HEADER.size] != _checksum(bytes(data[:_CHECKED]), run):
        raise DamagedError("the checksum of its header does not match")
    header = SegmentHeader(run.decode(errors="replace"), shard, lineage, first, term_before)
    return header, data[stop:]


def decode_segment(data: memoryview, first: int, term_before: int) -> Entries:
    """The entries of a segment, from index `first` on; `data` begins behind its header."""
    entries: list[Entry] = []
    at, term = 0, term_before
    for index in itertools.count(first):
        if at == len(data):
            return Entries(entries)
        try:
            entry = decode_entry(data[at:])
        except FrameError as error:
            return _broken(entries, data, at, index, str(error))
        if entry is None:
            return _broken(entries, data, at, index, "")
        if entry.index != index or entry.term < term:
            why = f"entry {entry.index} of term {entry.term} is in its place"
            return _broken(entries, data, at, index, why)
        entries.append(entry)
        at, term = at + entry.size, entry.term
    raise AssertionError("unreachable")


def _broken(entries: list[Entry], data: memoryview, at: int, index: int, why: str) -> Entries:
    return Entries(entries, len(data) - at, _whole_entries(data[at + 1 :], index + 1), why)


def _whole_entries(data: memoryview, index: int) -> int:
    """How many entries from `index` on are in bytes of which nobody knows where one begins."""
    content = bytes(data)
    found = missed = at = 0
    while missed < _LOOK_AHEAD:
        stop = _end_of_entry(content, index, at)
        if stop is None:
            missed += 1
        else:
            found, missed, at = found + 1, 0, stop
        index += 1
    return found


def _end_of_entry(content: bytes, index: int, at: int) -> int | None:
    """Where the entry of this index ends, which begins at `at` or later; None: it is not there."""
    pattern = index.to_bytes(8, "little")
    for _ in range(_TRIES):
        at = content.find(pattern, at)
        if at < 0:
            return None
        with contextlib.suppress(FrameError):
            entry = decode_entry(memoryview(content)[at:])
            if entry is not None:
                return at + entry.size
        at += 1
    return None


def _checksum(packed: bytes, run: Buffer) -> bytes:
    whole = xxhash.xxh3_64(packed)
    whole.update(run)
    return whole.intdigest().to_bytes(8, "little")
