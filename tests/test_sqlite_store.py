"""The supervisor's memory in SQLite: the conformance suite, and files that it cannot use."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from store_conformance import StoreConformance

from psedge.protocol.errors import ConfigError
from psedge.supervisor.sqlite_store import FILE, FORMAT, RESERVED_BYTES, SqliteStore
from psedge.supervisor.store import StoreError


class TestSqliteStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / FILE

    def run(self, scenario):
        asyncio.run(scenario(lambda: SqliteStore.open(self.path, pytest.fail)))


def opened(path: Path, *, commit: dict[str, bytes | None] | None = None) -> tuple[dict, list[str]]:
    """The rows of the store at `path` after a commit, and what was said on opening it."""
    notes: list[str] = []

    async def story() -> dict[str, bytes]:
        store = await SqliteStore.open(path, notes.append)
        try:
            await store.commit(commit or {})
            return await store.read()
        finally:
            await store.close()

    return asyncio.run(story()), notes


def test_the_file_is_written_ahead_and_forced_to_disk_at_each_commit(tmp_path):
    opened(tmp_path / FILE, commit={"a": b"1"})
    base = sqlite3.connect(tmp_path / FILE)
    assert base.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    base.close()

    async def level() -> int:
        store = await SqliteStore.open(tmp_path / FILE, pytest.fail)
        found = await store._run(lambda: store._base.execute("PRAGMA synchronous").fetchone()[0])
        await store.close()
        return int(found)

    assert asyncio.run(level()) == 2


def test_a_killed_process_leaves_what_it_committed(tmp_path):
    program = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from psedge.supervisor.sqlite_store import SqliteStore\n"
        "async def main():\n"
        "    store = await SqliteStore.open(Path(sys.argv[1]), print)\n"
        "    await store.commit({'a': b'1'})\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / FILE
    subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False)
    assert opened(path) == ({"a": b"1"}, [])


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.write_bytes(b"not a database at all" * 100), "it is damaged"),
        (
            lambda path: changed(path, f"PRAGMA user_version = {FORMAT + 1}"),
            f"another version of psedge wrote it (format {FORMAT + 1}, not {FORMAT})",
        ),
        (lambda path: changed(path, "PRAGMA application_id = 7"), "it is no file of psedge"),
        (lambda path: overwritten(path), "it is damaged"),
    ],
)
def test_what_cannot_be_used_is_moved_aside_and_said(tmp_path, spoil, why):
    path = tmp_path / FILE
    rows: dict[str, bytes | None] = {f"key-{number}": bytes(3000) for number in range(100)}
    opened(path, commit=rows)
    spoil(path)
    spoiled = path.read_bytes()
    found, notes = opened(path)
    assert found == {}
    assert notes == [f"{path} is not used, for {why}; it is kept as {FILE}.unused-1"]
    assert (tmp_path / f"{FILE}.unused-1").read_bytes() == spoiled
    opened(path, commit=rows)
    spoil(path)
    assert opened(path)[1][0].endswith("unused-2")


def changed(path: Path, statement: str) -> None:
    base = sqlite3.connect(path)
    base.execute(statement)
    base.commit()
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.close()


def overwritten(path: Path) -> None:
    """Pages in the middle are another file's."""
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(max(path.stat().st_size - 3 * 4096, 0) or 100))


def test_a_file_that_cannot_be_used_by_this_user_is_one_sentence(tmp_path):
    (tmp_path / FILE).mkdir()
    with pytest.raises(ConfigError, match="it cannot be opened or made by you; mend that"):
        opened(tmp_path / FILE)


def test_another_program_that_holds_it_locked(tmp_path, monkeypatch):
    monkeypatch.setattr("psedge.supervisor.sqlite_store.BUSY_SECONDS", 0.05)
    path = tmp_path / FILE
    opened(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(ConfigError, match="another program holds it locked"):
        opened(path)

    async def story() -> None:
        holder.execute("ROLLBACK")
        store = await SqliteStore.open(path, pytest.fail)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another program holds it locked"):
            await store.commit({"a": b"1"})
        holder.execute("ROLLBACK")
        await store.commit({"a": b"2"})
        assert await store.read() == {"a": b"2"}
        await store.close()

    asyncio.run(story())
    holder.close()


def test_a_full_disk_stops_nothing_soon_and_loses_nothing_then(tmp_path):
    async def story() -> None:
        store = await SqliteStore.open(tmp_path / FILE, pytest.fail)
        await store.commit({"a": b"1"})
        sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
        pages = await store._run(lambda: store._base.execute("PRAGMA page_count").fetchone()[0])
        await store._run(lambda: store._base.execute(f"PRAGMA max_page_count = {pages}"))
        for number in range(200):
            await store.commit({"a": b"%d" % number, f"k{number}": bytes(1000)})
        assert [path.stat().st_size for path in sorted(tmp_path.iterdir())] == sizes
        with pytest.raises(StoreError, match="the disk is full"):
            await store.commit({"a": b"2", "b": bytes(2 * RESERVED_BYTES)})
        rows = await store.read()
        assert rows["a"] == b"199"
        assert "b" not in rows
        await store._run(lambda: store._base.execute("PRAGMA max_page_count = 100000"))
        await store.commit({"a": b"2", "b": bytes(2 * RESERVED_BYTES)})
        assert (await store.read())["a"] == b"2"
        await store.close()

    asyncio.run(story())
