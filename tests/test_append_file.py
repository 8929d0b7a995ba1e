"""Files of the real disk that stay open: every byte arrives, and nobody is kept waiting."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from psedge.protocol.disk import Disk


@pytest.mark.parametrize("parts", [1, 3, 511, 512, 513, 2000])
def test_however_little_the_system_takes_at_once_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    writev = os.writev
    data = [bytes([index % 251]) * (index % 7) for index in range(parts)]

    def some(descriptor: int, left: list[Any]) -> int:
        assert len(left) <= 1024
        joined = b"".join(left)
        return writev(descriptor, [joined[: max(1, len(joined) // 2)]]) if joined else 0

    async def story() -> bytes:
        disk = Disk(tmp_path)
        file = await disk.open_append("log")
        await file.append(data)
        assert file.append_now(data)
        await file.close()
        return await disk.read("log")

    monkeypatch.setattr(os, "writev", some)
    assert asyncio.run(story()) == 2 * b"".join(data)


def test_a_short_write_is_done_at_once_unless_the_disk_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        disk = Disk(tmp_path)
        file = await disk.open_append("log")
        assert file.append_now([b"1"])
        assert (tmp_path / "log").read_bytes() == b"1"
        began, may_end = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(descriptor: int) -> None:
            loop.call_soon_threadsafe(began.set)
            asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result()

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", slow)
            sync = asyncio.ensure_future(disk.sync("log"))
            await began.wait()
            assert not file.append_now([b"2"])
            await file.append([b"3"])
            may_end.set()
            await sync
        assert file.append_now([b"4"])
        await file.close()
        assert await disk.read("log") == b"134"

    asyncio.run(story())


def descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    async def story() -> int:
        disk = Disk(tmp_path)
        before = descriptors()
        closed, forgotten = await disk.open_append("a"), await disk.open_append("b")
        await closed.close()
        await closed.close()
        del forgotten
        gc.collect()
        return descriptors() - before

    assert asyncio.run(story()) == 0


def test_what_does_not_work_is_told_as_the_system_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, parts: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def story() -> None:
        file = await Disk(tmp_path).open_append("log")
        monkeypatch.setattr(os, "writev", full)
        with pytest.raises(OSError, match="No space left"):
            file.append_now([b"1"])
        with pytest.raises(OSError, match="No space left"):
            await file.append([b"1"])
        await file.close()

    asyncio.run(story())
