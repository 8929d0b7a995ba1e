"""What every Storage must do, as one suite: the real one and the virtual one run it alike."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable

import numpy as np
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

    def test_a_file_that_stays_open_is_appended_to(self):
        async def scenario(storage):
            await storage.append("a/log", b"0")
            file = await storage.open_append("a/log")
            assert await storage.read("a/log") == b"0"
            await file.append([b"12", b"", memoryview(b"3")])
            assert file.append_now([bytearray(b"4"), np.array([53], np.uint8).data])
            await storage.append("a/log", b"6")
            await file.append([bytes(3_000_000)])
            await file.close()
            assert await storage.read("a/log") == b"0123456" + bytes(3_000_000)
            new = await storage.open_append("b/c/new")
            assert await storage.read("b/c/new") == b""
            await storage.sync("b/c/new")
            await new.close()

        self.run(scenario)

    def test_what_is_open_may_be_removed(self):
        async def scenario(storage):
            file = await storage.open_append("a/log")
            assert file.append_now([b"1"])
            await storage.remove("a")
            await file.append([b"2"])
            await file.close()
            assert await storage.names("") == []
            file = await storage.open_append("a/log")
            await file.append([b"3"])
            await file.close()
            assert await storage.read("a/log") == b"3"

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
                await storage.open_append(path)
            with pytest.raises(ValueError, match=r"leaves|empty"):
                await storage.remove(path)
            with pytest.raises(ValueError, match=r"leaves|empty"):
                await storage.sync(path)

        self.run(scenario)

    def test_many_writers_of_one_file_leave_one_whole_content(self):
        contents = [bytes([index]) * 100_000 for index in range(8)]

        async def scenario(storage):
            await asyncio.gather(*(storage.write_atomic("f", (c,)) for c in contents))
            assert await storage.read("f") in contents
            assert await storage.names("") == ["f"]

        self.run(scenario)

    def test_folders_where_files_are_expected_and_the_other_way_round(self):
        async def scenario(storage):
            await storage.write_atomic("folder/file", (b"x",))
            with pytest.raises(IsADirectoryError):
                await storage.read("folder")
            with pytest.raises(IsADirectoryError):
                await storage.write_atomic("folder", (b"y",))
            with pytest.raises(IsADirectoryError):
                await storage.append("folder", b"y")
            with pytest.raises(IsADirectoryError):
                await storage.open_append("folder")
            with pytest.raises(NotADirectoryError):
                await storage.read("folder/file/deeper")
            with pytest.raises(NotADirectoryError):
                await storage.write_atomic("folder/file/deeper", (b"y",))
            with pytest.raises(NotADirectoryError):
                await storage.append("folder/file/deeper/still", b"y")
            with pytest.raises(IsADirectoryError):
                await storage.sync("folder")
            with pytest.raises(NotADirectoryError):
                await storage.sync("folder/file/deeper")
            await storage.remove("folder/file/deeper")
            assert await storage.names("folder") == ["file"]
            assert await storage.read("folder/file") == b"x"

        self.run(scenario)

    @pytest.mark.parametrize("path", ["x//y", "./x/y", "x/./y", "x/y/"])
    def test_one_file_has_several_spellings(self, path):
        async def scenario(storage):
            await storage.write_atomic(path, (b"1",))
            await storage.append(path, b"2")
            assert await storage.read("x/y") == b"12"
            assert await storage.names("x/") == ["y"]

        self.run(scenario)

    def test_names_that_are_too_long(self):
        async def scenario(storage):
            with pytest.raises(OSError, match="too long") as caught:
                await storage.append("ü" * 128, b"x")
            assert caught.value.errno == errno.ENAMETOOLONG
            with pytest.raises(OSError, match="too long"):
                await storage.write_atomic("n" * 250, (b"x",))
            assert await storage.names("") == []

        self.run(scenario)

    def test_buffers_of_any_kind_and_length(self):
        async def scenario(storage):
            numbers = np.arange(3 << 18, dtype="<f4")
            parts = (numbers.data, np.empty(0, "<f4").data, b"", bytearray(b"end"))
            await storage.write_atomic("f", parts)
            await storage.append("f", numbers[:2].data)
            await storage.append("f", b"")
            assert await storage.read("f") == numbers.tobytes() + b"end" + numbers[:2].tobytes()

        self.run(scenario)

    def test_what_was_removed_can_be_written_again(self):
        async def scenario(storage):
            for content in (b"1", b"2"):
                await storage.write_atomic("x/y/f", (content,))
                await storage.append("x/y/log", content)
                assert await storage.read("x/y/f") == content
                assert await storage.read("x/y/log") == content
                await storage.remove("x")
                with pytest.raises(FileNotFoundError):
                    await storage.read("x/y/f")

        self.run(scenario)

    def test_appends_at_once_are_not_mixed(self):
        lines = [bytes([65 + index]) * 3_000_000 for index in range(3)]

        async def scenario(storage):
            await asyncio.gather(*(storage.append("log", line) for line in lines))
            content = await storage.read("log")
            found = [content[at : at + 3_000_000] for at in range(0, len(content), 3_000_000)]
            assert sorted(found) == lines

        self.run(scenario)

    def test_a_cancelled_write_leaves_one_whole_content(self):
        async def scenario(storage):
            await storage.write_atomic("f", (b"old",))
            writing = asyncio.ensure_future(storage.write_atomic("f", (b"new" * 1_000_000,)))
            await asyncio.sleep(0)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            assert await storage.read("f") in (b"old", b"new" * 1_000_000)
            await storage.write_atomic("f", (b"newer",))
            await storage.append("g", b"x")
            assert await storage.names("") == ["f", "g"]

        self.run(scenario)

    def test_what_a_read_returns_is_its_own(self):
        async def scenario(storage):
            data = bytearray(b"abc")
            await storage.write_atomic("f", (data,))
            data[:] = b"xyz"
            content = await storage.read("f")
            await storage.append("f", b"d")
            assert content == b"abc"
            assert await storage.read("f") == b"abcd"

        self.run(scenario)

    def test_what_is_forced_to_disk_reads_as_before(self):
        async def scenario(storage):
            with pytest.raises(FileNotFoundError):
                await storage.sync("folder/log")
            assert await storage.names("") == []
            await storage.append("folder/log", b"1")
            await storage.sync("folder/log")
            await storage.sync("folder/log")
            await storage.append("folder/log", b"2")
            await storage.sync("./folder//log")
            await storage.write_atomic("f", (b"whole",))
            await storage.sync("f")
            assert await storage.read("folder/log") == b"12"
            assert await storage.read("f") == b"whole"
            await storage.remove("folder")
            with pytest.raises(FileNotFoundError):
                await storage.sync("folder/log")

        self.run(scenario)

    def test_a_file_is_appended_to_while_it_is_forced_to_disk(self):
        async def scenario(storage):
            await storage.append("log", b"0")
            await asyncio.gather(
                *(
                    work
                    for digit in b"123456789"
                    for work in (storage.sync("log"), storage.append("log", bytes([digit])))
                )
            )
            assert sorted(await storage.read("log")) == sorted(b"0123456789")

        self.run(scenario)
