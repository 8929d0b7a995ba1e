"""The latest entries of a shard's log, in memory: for the copies that do not have them yet."""

from __future__ import annotations

from psedge.protocol.log_entry import Entry


class LogTail:
    """Entries without gaps.

    first: index of the oldest; with none, of the next one that may be added.
    size: bytes that all of them have on the wire.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.size = 0
        self._entries: dict[int, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """The one that follows."""
        assert entry.index == self.first + len(self._entries)
        self._entries[entry.index] = entry
        self.size += entry.size

    def begin_after(self, index: int) -> None:
        """Forget everything; the next entry is the one after `index`."""
        self._entries.clear()
        self.size = 0
        self.first = index + 1

    def after(self, index: int, limit_bytes: int) -> list[Entry] | None:
        """What follows `index`: one entry at least, and as many as fit in `limit_bytes`.

        Nothing follows the latest one. None: the next one is no longer here.
        """
        if index + 1 < self.first:
            return None
        found: list[Entry] = []
        left = limit_bytes
        for number in range(index + 1, self.first + len(self._entries)):
            entry = self._entries[number]
            left -= entry.size
            if left < 0 and found:
                break
            found.append(entry)
        return found

    def drop_through(self, index: int) -> None:
        """Forget the entries up to `index`, this one included."""
        while self._entries and self.first <= index:
            self.size -= self._entries.pop(self.first).size
            self.first += 1

    def shorten(self, limit_bytes: int, keep_after: int) -> None:
        """Forget the oldest ones beyond `limit_bytes`, but none after `keep_after`."""
        while self.size > limit_bytes and self._entries and self.first <= keep_after:
            self.drop_through(self.first)

    def check_invariants(self) -> None:
        """Raise AssertionError if there is a gap or the bytes are counted wrongly."""
        expected = list(range(self.first, self.first + len(self._entries)))
        assert list(self._entries) == expected
        assert all(entry.index == index for index, entry in self._entries.items())
        assert self.size == sum(entry.size for entry in self._entries.values())
