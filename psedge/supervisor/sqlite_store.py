"""The supervisor's memory on a real machine: one SQLite file in the run folder.

SQLite writes ahead and forces each commit to disk (WAL, synchronous = FULL), so a commit costs one
sync, and whoever reads the file with another program meanwhile holds nobody up. All calls run one
after the other in a thread of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from psedge.protocol.errors import ConfigError, TrainingError
from psedge.supervisor.store import ConflictError, StoreError

FILE = "supervisor.sqlite"
#: "PSED": tells the file from other programs' databases.
APPLICATION_ID = 0x50534544
#: Of the table's layout and of what the rows mean.
FORMAT = 1
#: How long a commit waits for another program that is writing to the file.
BUSY_SECONDS = 5.0
#: Room that the file and its log take at once, so that a disk that is full later stops nothing
#: soon, and pages after which the log is written into the file and begins anew.
RESERVED_BYTES = 2**20
LOG_PAGES = 128
#: Files that SQLite keeps beside a database.
_BESIDE = ("-wal", "-shm", "-journal")

#: What SQLite's messages begin with, and what they mean to a person.
_REASONS = {
    "database or disk is full": "the disk is full",
    "disk i/o error": "the disk does not work, or is full",
    "attempt to write a readonly database": "it cannot be written to by you",
    "unable to open database file": "it cannot be opened or made by you",
    "database is locked": "another program holds it locked",
    "database disk image is malformed": "it is damaged",
}

T = TypeVar("T")


class SqliteStore:
    """A StateStore. Made by `open`."""

    def __init__(self, path: Path, thread: ThreadPoolExecutor, base: sqlite3.Connection) -> None:
        self._path = path
        self._thread = thread
        self._base = base

    @classmethod
    async def open(cls, path: Path, notify: Callable[[str], None]) -> SqliteStore:
        """Open the file, or make it; its folder must be there.

        A file that is damaged, or not of this version of psedge, is moved aside, as `notify` is
        told: nothing of it is lost, and nothing of it is used.
        Raises ConfigError when the file cannot be used by this user.
        """
        thread = ThreadPoolExecutor(1, "psedge-store")
        loop = asyncio.get_running_loop()
        try:
            base, notes = await loop.run_in_executor(thread, _opened, path)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        for note in notes:
            notify(note)
        return cls(path, thread, base)

    async def read(self) -> dict[str, bytes]:
        return await self._run(self._read)

    async def commit(
        self,
        writes: Mapping[str, bytes | None],
        *,
        expect: Mapping[str, bytes | None] | None = None,
    ) -> None:
        rows, expected = dict(writes), dict(expect or {})
        await self._run(lambda: self._commit(rows, expected))

    async def close(self) -> None:
        with contextlib.suppress(StoreError, TrainingError):
            await self._run(self._base.close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            reason = _reason(error)
            kind = StoreError if isinstance(error, sqlite3.OperationalError) else TrainingError
            raise kind(f"{self._path}: {reason}") from error

    def _read(self) -> dict[str, bytes]:
        return dict(self._base.execute("SELECT key, value FROM state"))

    def _commit(
        self, writes: Mapping[str, bytes | None], expect: Mapping[str, bytes | None]
    ) -> None:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            for key, wanted in expect.items():
                found = self._base.execute("SELECT value FROM state WHERE key = ?", (key,))
                if next(found, (None,))[0] != wanted:
                    raise ConflictError(f"{self._path} was written to by another supervisor")
            gone = [(key,) for key, value in writes.items() if value is None]
            rows = [(key, value) for key, value in writes.items() if value is not None]
            self._base.executemany("DELETE FROM state WHERE key = ?", gone)
            self._base.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", rows)
            self._base.execute("COMMIT")
        except BaseException:
            # A commit that failed may have ended the transaction by itself.
            with contextlib.suppress(sqlite3.Error):
                self._base.execute("ROLLBACK")
            raise


def _opened(path: Path) -> tuple[sqlite3.Connection, list[str]]:
    """The database, and what has to be said about it."""
    notes: list[str] = []
    try:
        try:
            return _connected(path), notes
        except (sqlite3.OperationalError, ConfigError):
            raise
        except (sqlite3.DatabaseError, _ForeignFileError) as error:
            why = str(error) if isinstance(error, _ForeignFileError) else "it is damaged"
            aside = _move_aside(path)
            notes.append(f"{path} is not used, for {why}; it is kept as {aside.name}")
            return _connected(path), notes
    except sqlite3.Error as error:
        raise ConfigError(
            f"the supervisor cannot use {path}: {_reason(error)}; mend that, or name another run "
            "folder with --out"
        ) from None


class _ForeignFileError(Exception):
    """The file is of another program, or of another psedge."""


def _connected(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        _check(base)
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")
        base.execute("BEGIN IMMEDIATE")
        base.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        base.execute(f"PRAGMA user_version = {FORMAT}")
        base.execute(
            "CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value BLOB NOT NULL)"
            " WITHOUT ROWID"
        )
        base.execute("COMMIT")
        _reserve(base)
    except BaseException:
        base.close()
        raise
    return base


def _reserve(base: sqlite3.Connection) -> None:
    base.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
    try:
        base.execute("INSERT INTO state VALUES ('reserve', zeroblob(?))", (RESERVED_BYTES,))
    except sqlite3.OperationalError:
        # There is no such room: what has to be written may still fit.
        return
    base.execute("DELETE FROM state WHERE key = 'reserve'")


def _check(base: sqlite3.Connection) -> None:
    """Raises _ForeignFileError or sqlite3.DatabaseError for a file that is not to be touched."""
    application = base.execute("PRAGMA application_id").fetchone()[0]
    version = base.execute("PRAGMA user_version").fetchone()[0]
    tables = base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not tables and application in (0, APPLICATION_ID):
        return
    if application != APPLICATION_ID:
        raise _ForeignFileError("it is no file of psedge")
    if version != FORMAT:
        raise _ForeignFileError(
            f"another version of psedge wrote it (format {version}, not {FORMAT})"
        )
    if base.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise _ForeignFileError("it is damaged")


def _move_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.unused-{number}")).exists():
        number += 1
    path.rename(aside)
    for ending in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{ending}").rename(f"{aside}{ending}")
    return aside


def _reason(error: sqlite3.Error) -> str:
    text = str(error)
    return next((why for start, why in _REASONS.items() if text.lower().startswith(start)), text)
