"""What every StateStore must do, as one suite: the real one and the virtual one run it alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from psedge.supervisor.store import ConflictError, StateStore

#: Opens the same store, again where it has been opened before.
Open = Callable[[], Awaitable[StateStore]]


class StoreConformance:
    """Subclasses say how to run a scenario with an `Open` on a fresh, empty store."""

    def run(self, scenario: Callable[[Open], Awaitable[Any]]) -> None:
        raise NotImplementedError

    def test_what_is_committed_is_read_again(self):
        async def scenario(open_store):
            store = await open_store()
            assert await store.read() == {}
            await store.commit({"a": b"1", "b": b"", "c/ü": bytes(range(256))})
            await store.commit({"a": b"2", "b": None, "never": None})
            assert await store.read() == {"a": b"2", "c/ü": bytes(range(256))}
            await store.close()
            again = await open_store()
            assert await again.read() == {"a": b"2", "c/ü": bytes(range(256))}
            await again.close()

        self.run(scenario)

    def test_a_commit_is_refused_as_a_whole_where_a_row_is_another(self):
        async def scenario(open_store):
            store = await open_store()
            await store.commit({"generation": b"1"}, expect={"generation": None})
            for expected in ({"generation": None}, {"generation": b"2"}, {"other": b"1"}):
                with pytest.raises(ConflictError):
                    await store.commit({"x": b"1", "generation": b"3"}, expect=expected)
            assert await store.read() == {"generation": b"1"}
            await store.commit({"x": b"1"}, expect={"generation": b"1", "other": None})
            assert await store.read() == {"generation": b"1", "x": b"1"}
            await store.close()

        self.run(scenario)

    def test_an_earlier_supervisor_is_fenced(self):
        async def scenario(open_store):
            old = await open_store()
            await old.commit({"generation": b"1", "x": b"old"})
            new = await open_store()
            assert (await new.read())["x"] == b"old"
            await new.commit({"generation": b"2"}, expect={"generation": b"1"})
            with pytest.raises(ConflictError):
                await old.commit({"x": b"late"}, expect={"generation": b"1"})
            with pytest.raises(ConflictError):
                await old.commit({}, expect={"generation": b"1"})
            assert await new.read() == {"generation": b"2", "x": b"old"}
            await new.commit({"x": b"new"}, expect={"generation": b"2"})
            await old.close()
            await new.close()
            last = await open_store()
            assert await last.read() == {"generation": b"2", "x": b"new"}
            await last.close()

        self.run(scenario)

    def test_many_commits_and_large_rows(self):
        async def scenario(open_store):
            store = await open_store()
            for number in range(50):
                await store.commit({f"k{number % 7}": b"%d" % number * 3000})
            expected = {f"k{number % 7}": b"%d" % number * 3000 for number in range(43, 50)}
            assert await store.read() == expected
            await store.close()
            again = await open_store()
            assert await again.read() == expected
            await again.close()

        self.run(scenario)
