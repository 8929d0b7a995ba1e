"""The supervisor's memory in the virtual world: a journal of commits on the host's virtual disk.

It makes the same promises as the real one (`supervisor/sqlite_store.py`): a commit takes one sync
of the disk's time, survives a power cut once it has returned, and is whole or not there at all.
Whoever opens the store owns it, and every commit of an earlier owner is refused. As there, a file
that is damaged is moved aside as a whole, and nothing of it is used; a record that was cut off by a
power cut had not been promised.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable, Iterator, Mapping

import msgspec
import xxhash

from psedge.protocol.errors import DamagedError
from psedge.protocol.ports import Storage
from psedge.supervisor.store import ConflictError, StoreError

FOLDER = "supervisor"
OWNER = f"{FOLDER}/owner"
#: A journal is written anew as one record when it is so many times as long as what is in it.
COMPACT_FACTOR = 4
COMPACT_LEAST_BYTES = 64_000

#: Length of a record's body, XXH3-64 of that number, XXH3-64 of the body.
_HEADER = struct.Struct("<QQQ")
_JOURNAL = re.compile(r"journal-\d+")
_ROWS = msgspec.msgpack.Decoder(dict[str, bytes | None])


class VirtualStore:
    """A StateStore over a Storage. Made by `open`.

    owner: counts who opened it; each has a journal file of its own, so that nobody writes into
    another's.
    """

    def __init__(self, storage: Storage, owner: int) -> None:
        self._storage = storage
        self._owner = owner
        self._path = f"{FOLDER}/journal-{owner}"
        self._rows: dict[str, bytes] = {}
        self._written = 0
        self._kept = 0
        #: A write failed in the middle: what it left would hide what comes after it.
        self._torn = True

    @classmethod
    async def open(
        cls, storage: Storage, notify: Callable[[str], None] = lambda text: None
    ) -> VirtualStore:
        """Take the store over. Raises StoreError when the disk does not take what is written."""
        try:
            names = await storage.names(FOLDER)
            journals = [name for name in names if _JOURNAL.fullmatch(name)]
            latest = max((_number(name) for name in journals), default=0)
            store = cls(storage, max(await _owner_of(storage) or 0, latest) + 1)
            # Taken over first and read then: what an earlier owner writes from now on is refused.
            await storage.write_atomic(OWNER, [_record({OWNER: b"%d" % store._owner})])
            # An opener that died on its way may have left none of its own.
            for name in sorted(journals, key=_number, reverse=True)[:1]:
                await store._take_over(f"{FOLDER}/{name}", notify)
            await store._write_anew()
            for name in journals:
                await storage.remove(f"{FOLDER}/{name}")
        except OSError as error:
            raise StoreError(f"the virtual store: {error.strerror or error}") from error
        return store

    async def read(self) -> dict[str, bytes]:
        return dict(self._rows)

    async def commit(
        self,
        writes: Mapping[str, bytes | None],
        *,
        expect: Mapping[str, bytes | None] | None = None,
    ) -> None:
        try:
            await self._require_owner()
            for key, wanted in (expect or {}).items():
                if self._rows.get(key) != wanted:
                    raise ConflictError(f"{key} is not what this supervisor wrote")
            if writes:
                await self._store(dict(writes))
            await self._require_owner()
        except OSError as error:
            raise StoreError(f"the virtual store: {error.strerror or error}") from error

    async def close(self) -> None:
        """Nothing is open between two commits."""

    async def _store(self, writes: dict[str, bytes | None]) -> None:
        before = dict(self._rows) if self._must_compact() else None
        if before is not None:
            self._apply(writes)
            try:
                await self._write_anew()
            except BaseException:
                self._rows = before
                raise
            return
        record = _record(writes)
        self._torn = True
        await self._storage.append(self._path, record)
        await self._storage.sync(self._path)
        self._torn = False
        self._written += len(record)
        self._apply(writes)

    def _must_compact(self) -> bool:
        limit = max(COMPACT_LEAST_BYTES, COMPACT_FACTOR * self._kept)
        return self._torn or self._written > limit

    async def _write_anew(self) -> None:
        record = _record(dict(self._rows))
        await self._storage.write_atomic(self._path, [record])
        self._written = self._kept = len(record)
        self._torn = False

    def _apply(self, writes: Mapping[str, bytes | None]) -> None:
        for key, value in writes.items():
            if value is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = value

    async def _take_over(self, path: str, notify: Callable[[str], None]) -> None:
        """Read what an earlier owner left."""
        content = await self._storage.read(path)
        try:
            for writes in _records(content):
                self._apply(writes)
        except DamagedError as error:
            self._rows.clear()
            aside = f"{path}.unused"
            await self._storage.write_atomic(aside, [content])
            notify(f"{path} is not used, for {error}; it is kept as {aside}")

    async def _require_owner(self) -> None:
        if await _owner_of(self._storage) not in (self._owner, None):
            raise ConflictError("another supervisor has opened the virtual store")


async def _owner_of(storage: Storage) -> int | None:
    """None: nobody has owned the store, or who did cannot be read any more."""
    with contextlib.suppress(FileNotFoundError, DamagedError):
        for rows in _records(await storage.read(OWNER)):
            return int(rows[OWNER] or b"0")
    return None


def _number(name: str) -> int:
    return int(name.removeprefix("journal-"))


def _record(writes: dict[str, bytes | None]) -> bytes:
    body = msgspec.msgpack.encode(writes)
    length = len(body).to_bytes(8, "little")
    digests = xxhash.xxh3_64_intdigest(length), xxhash.xxh3_64_intdigest(body)
    return _HEADER.pack(len(body), *digests) + body


def _records(content: bytes) -> Iterator[dict[str, bytes | None]]:
    """Whole records from the beginning; one that is cut short ends them.

    Raises DamagedError at one that is not what was written.
    """
    at = 0
    while at + _HEADER.size <= len(content):
        length, digest_of_length, digest = _HEADER.unpack_from(content, at)
        if xxhash.xxh3_64_intdigest(content[at : at + 8]) != digest_of_length:
            raise DamagedError("it is damaged")
        body = content[at + _HEADER.size : at + _HEADER.size + length]
        if len(body) != length:
            return
        if xxhash.xxh3_64_intdigest(body) != digest:
            raise DamagedError("it is damaged")
        yield _ROWS.decode(body)
        at += _HEADER.size + length
