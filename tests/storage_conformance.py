"""What every Storage must do, as one suite: the real one and the virtual one run it alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from psedge.protocol.ports import Storage


class StorageConformance:
    """Subclasses say how to run a scenario on a fresh, empty storage."""

    def run(self, scenario: Callable[[Storage], Awaitable[None]]) -> None:
        raise NotImplementedError

    def test_what_is_written_is_read(self):
        async def scenario(storage):
            await storage.write_atomic("a.bin", (b"one", memoryview(b"two"), bytearray(b"3")))
            assert await storage.read("a.bin") == b"onetwo3"
            await storage.write_atomic("a.bin", ())
            assert await storage.read("a.bin") == b""

        self.run(scenario)

    def test_folders_on_the_way_are_made(self):
        async def scenario(storage):
            await storage.write_atomic("x/y/z.json", (b"{}",))
            await storage.append("p/q/log.jsonl", b"1\n")
            assert await storage.read("x/y/z.json") == b"{}"
            assert await storage.names("") == ["p", "x"]
            assert await storage.names("x") == ["y"]
            assert await storage.names("p/q") == ["log.jsonl"]

        self.run(scenario)

    def test_append_adds_at_the_end(self):
        async def scenario(storage):
            await storage.append("log", b"1\n")
            await storage.append("log", memoryview(b"2\n"))
            assert await storage.read("log") == b"1\n2\n"
            await storage.write_atomic("log", (b"new\n",))
            await storage.append("log", b"3\n")
            assert await storage.read("log") == b"new\n3\n"

        self.run(scenario)

    def test_names_are_sorted_and_empty_where_nothing_is(self):
        async def scenario(storage):
            for name in ("b", "a", "c/d"):
                await storage.write_atomic(name, (b"",))
            assert await storage.names(".") == ["a", "b", "c"]
            assert await storage.names("missing") == []
            assert await storage.names("a") == []

        self.run(scenario)

    def test_remove_takes_files_and_whole_folders(self):
        async def scenario(storage):
            await storage.write_atomic("folder/deep/file", (b"x",))
            await storage.write_atomic("file", (b"x",))
            await storage.remove("file")
            await storage.remove("folder")
            await storage.remove("folder")
            await storage.remove("never/was")
            assert await storage.names("") == []

        self.run(scenario)

    def test_reading_what_is_not_there(self):
        async def scenario(storage):
            with pytest.raises(FileNotFoundError):
                await storage.read("missing")

        self.run(scenario)

    @pytest.mark.parametrize("path", ["../out", "a/../../out", "/etc/passwd", "", ".", "a\0b"])
    def test_paths_that_leave_the_root_are_refused(self, path):
        async def scenario(storage):
            with pytest.raises(ValueError, match=r"leaves|empty"):
                await storage.read(path)
            with pytest.raises(ValueError, match=r"leaves|empty"):
                await storage.write_atomic(path, (b"x",))
            with pytest.raises(ValueError, match=r"leaves|empty"):
                await storage.append(path, b"x")
            with pytest.raises(ValueError, match=r"leaves|empty"):
                await storage.remove(path)

        self.run(scenario)

    def test_many_writers_of_one_file_leave_one_whole_content(self):
        contents = [bytes([index]) * 100_000 for index in range(8)]

        async def scenario(storage):
            await asyncio.gather(*(storage.write_atomic("f", (c,)) for c in contents))
            assert await storage.read("f") in contents
            assert await storage.names("") == ["f"]

        self.run(scenario)
