"""Who may supervise the run of a folder, and what a copied folder knows of its run."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_cluster import TestClock

from psedge.orders import ServerOrder
from psedge.own_book import open_book
from psedge.protocol.errors import ConfigError
from psedge.run_folder import choose_folder, config_to_resume
from psedge.run_lock import FILE, Holder, RunLock
from psedge.serve import _listen_at

HOLDER = Holder(123, "pc", "http://127.0.0.1:7700")


def test_a_second_supervisor_hears_who_the_first_is(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.take(HOLDER)
    with pytest.raises(ConfigError) as caught:
        second.take(Holder(456, "pc", "http://127.0.0.1:7701"))
    assert str(caught.value) == (
        f"the run in {tmp_path} has its supervisor already, process 123 on pc: see "
        "`psedge status --join http://127.0.0.1:7700`, or end it first"
    )
    first.release()
    assert RunLock(tmp_path).last_holder() == HOLDER
    second.take(HOLDER)
    second.release()


def test_a_resumed_run_is_found_where_it_was(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    assert _listen_at(ServerOrder(resume=True), lock) == ("127.0.0.1", 7700)
    lock.take(Holder(1, socket.gethostname(), "http://127.0.0.1:7801", "0.0.0.0", 7801))
    assert _listen_at(ServerOrder(resume=True), lock) == ("0.0.0.0", 7801)
    assert _listen_at(ServerOrder(resume=True, port=0), lock) == ("0.0.0.0", 0)
    assert _listen_at(ServerOrder(resume=True, host="127.0.0.1"), lock) == ("127.0.0.1", 7801)
    assert _listen_at(ServerOrder(), lock) == ("127.0.0.1", 7700)
    lock.release()
    lock.take(Holder(1, "another machine", "http://10.0.0.1:7801", "10.0.0.1", 7801))
    assert _listen_at(ServerOrder(resume=True), lock) == ("127.0.0.1", 7700)
    lock.release()


def test_the_lock_of_a_killed_supervisor_is_free(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from psedge.run_lock import Holder, RunLock\n"
        "RunLock(Path(sys.argv[1])).take(Holder(1, 'pc', 'http://x'))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=60, check=False)
    assert (tmp_path / FILE).stat().st_size > 0
    lock = RunLock(tmp_path)
    lock.take(HOLDER)
    lock.release()


def test_a_lock_whose_holder_nobody_can_read(tmp_path: Path) -> None:
    first = RunLock(tmp_path)
    first.take(HOLDER)
    (tmp_path / FILE).write_bytes(b"{")
    assert first.last_holder() is None
    with pytest.raises(ConfigError, match="has its supervisor already: end that one first"):
        RunLock(tmp_path).take(HOLDER)
    first.release()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(ConfigError, match=r"cannot be written to: .*; name another with --out"):
        RunLock(tmp_path).take(HOLDER)


def test_a_copied_run_folder_is_another_run_and_its_logs_are_set_aside(tmp_path: Path) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"

    async def identity(folder: Path, notes: list[str]) -> tuple[str, str]:
        lock = RunLock(folder)
        book = await open_book(folder, lock, HOLDER, TestClock(), notes.append)
        await book.close()
        lock.release()
        return book.identity, book.copied_from

    async def story() -> None:
        notes: list[str] = []
        original, _ = await identity(first, notes)
        assert await identity(first, notes) == (original, "")
        (first / "servers" / "0").mkdir(parents=True)
        shutil.copytree(first, copy)
        assert notes == []
        found, copied_from = await identity(copy, notes)
        assert found != original
        assert copied_from.startswith(f"{first} on ")
        assert notes == [
            f"{copy / 'servers'} came with the copy and is not used; it is kept as servers.copied-1"
        ]
        assert (copy / "servers.copied-1" / "0").is_dir()
        moved = first.rename(tmp_path / "moved")
        assert await identity(moved, notes) == (original, "")

    asyncio.run(story())


def test_a_folder_with_a_book_holds_a_run(tmp_path: Path) -> None:
    (tmp_path / "supervisor.sqlite").touch()
    with pytest.raises(ConfigError, match="holds a run already"):
        choose_folder("a", tmp_path, False, 0.0)
    with pytest.raises(ConfigError, match="name the config too"):
        config_to_resume(None, tmp_path, True)
    (tmp_path / "config.toml").touch()
    assert config_to_resume(None, tmp_path, True) == tmp_path / "config.toml"
    assert config_to_resume(Path("c.toml"), tmp_path, True) == Path("c.toml")
