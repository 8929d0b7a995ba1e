"""The supervisor's book of a run folder on this machine: locked, opened, and known by its place."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from psedge.protocol.ports import Clock
from psedge.run_folder import SERVERS, make_folder
from psedge.run_lock import Holder, RunLock
from psedge.supervisor.book import Book
from psedge.supervisor.book_rows import Origin
from psedge.supervisor.sqlite_store import FILE, SqliteStore


async def open_book(
    folder: Path, lock: RunLock, holder: Holder, clock: Clock, notify: Callable[[str], None]
) -> Book:
    """Take the run over, as the only supervisor of its folder, which is made if need be.

    holder: this process. Raises ConfigError when the run has a living supervisor, or the folder
    cannot be written to.
    """
    make_folder(folder)
    lock.take(holder)
    store = await SqliteStore.open(folder / FILE, notify)
    try:
        book = await Book.open(store, clock, notify, secrets.randbits, _origin(folder))
    except BaseException:
        await store.close()
        raise
    if book.copied_from:
        _set_aside_logs(folder, notify)
    return book


def _origin(folder: Path) -> Origin:
    path = folder.resolve()
    return Origin(socket.gethostname(), str(path), (path / FILE).stat().st_ino)


def _set_aside_logs(folder: Path, notify: Callable[[str], None]) -> None:
    """Logs that came with a copied run folder are of the run it was copied from."""
    logs = folder / SERVERS
    if not logs.is_dir():
        return
    number = 1
    while (aside := folder / f"{SERVERS}.copied-{number}").exists():
        number += 1
    logs.rename(aside)
    notify(f"{logs} came with the copy and is not used; it is kept as {aside.name}")
