"""The latest entries of a log in memory."""

from __future__ import annotations

import pytest

from psedge.protocol.log_entry import ENTRY_HEADER_BYTES, Entry, EntryKind
from psedge.server.log_tail import LogTail

SIZE = ENTRY_HEADER_BYTES + 100


def tail_of(first: int, entries: int) -> LogTail:
    tail = LogTail(first)
    for index in range(first, first + entries):
        tail.add(Entry(index, 1, EntryKind.PUSH, bytes(100)))
    tail.check_invariants()
    return tail


def indices(tail: LogTail, after: int, limit: int = 10**9) -> list[int] | None:
    found = tail.after(after, limit)
    return None if found is None else [entry.index for entry in found]


def test_what_follows_an_index() -> None:
    tail = tail_of(5, 4)
    assert tail.size == 4 * SIZE
    assert indices(tail, 4) == [5, 6, 7, 8]
    assert indices(tail, 7) == [8]
    assert indices(tail, 8) == []
    assert indices(tail, 3) is None


@pytest.mark.parametrize(
    ("limit", "found"), [(0, [5]), (SIZE, [5]), (2 * SIZE - 1, [5]), (2 * SIZE, [5, 6])]
)
def test_a_message_holds_one_entry_at_least(limit: int, found: list[int]) -> None:
    assert indices(tail_of(5, 4), 4, limit) == found


def test_old_entries_are_dropped() -> None:
    tail = tail_of(5, 4)
    tail.drop_through(3)
    assert len(tail) == 4
    tail.drop_through(6)
    tail.check_invariants()
    assert (tail.first, len(tail), tail.size) == (7, 2, 2 * SIZE)
    tail.drop_through(99)
    tail.check_invariants()
    assert (tail.first, len(tail), tail.size) == (9, 0, 0)
    tail.add(Entry(9, 1, EntryKind.TERM))
    assert indices(tail, 8) == [9]


def test_a_tail_is_shortened_to_its_limit_but_for_what_must_stay() -> None:
    tail = tail_of(5, 4)
    tail.shorten(4 * SIZE, 99)
    assert tail.first == 5
    tail.shorten(2 * SIZE, 99)
    assert tail.first == 7
    tail.shorten(0, 7)
    assert tail.first == 8
    tail.check_invariants()


def test_a_tail_can_begin_anew() -> None:
    tail = tail_of(5, 4)
    tail.begin_after(40)
    tail.check_invariants()
    assert indices(tail, 40) == []
    assert indices(tail, 8) is None
