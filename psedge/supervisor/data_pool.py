"""One pool of samples: which positions are free, who has which, and how many are done.

Positions count on over all epochs, 0 to `end`; position p is place p % samples of epoch
p // samples. Free positions are those that came back from leavers, lowest first, and then all from
`cursor` on. A worker consumes its ranges in the order it got them, so one number, the samples it
has pushed, says exactly which part of them is done.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

Span = tuple[int, int]
#: Samples that a worker has pushed under an incarnation.
Seen = Mapping[tuple[int, int], int]


class PoolState(msgspec.Struct, frozen=True):
    """A pool at rest: what workers held is free again.

    name: of the worker whose data it is; empty for the one pool that all share.
    end: where the run ends in this pool; None if only the plan's limit ends it.
    visited: positions consumed, data of an earlier size included.
    """

    name: str
    samples: int
    end: int | None
    cursor: int = 0
    returned: tuple[Span, ...] = ()
    visited: int = 0


class PoolRow(msgspec.Struct, frozen=True):
    """A pool as the supervisor's book keeps it, beside the accounts of those who hold of it.

    offset: positions visited that are not below `cursor`, less those below it that data of an
    earlier size left out. So a row says how much is visited without being written for each push.
    """

    samples: int
    end: int | None
    cursor: int
    returned: tuple[Span, ...]
    offset: int


class AccountRow(msgspec.Struct, frozen=True):
    """An account as the book keeps it. pool: whose positions are held. Others as in `Account`."""

    pool: str
    incarnation: int
    seen: int
    held: tuple[Span, ...]
    claims: int = 0
    latest: Span | None = None
    provided: int = 0


@dataclass(slots=True)
class Account:
    """What one incarnation of a worker holds; `seen` of its samples are settled.

    claims: spans that it was handed; latest: the last of them. provided: step up to which it has
    samples, as `psedge.supervisor.turns` counts steps.
    """

    incarnation: int
    seen: int = 0
    held: deque[Span] = field(default_factory=deque)
    claims: int = 0
    latest: Span | None = None
    provided: int = 0

    @property
    def held_samples(self) -> int:
        return sum(stop - start for start, stop in self.held)


@dataclass(frozen=True, slots=True)
class _Settled:
    """Positions that were consumed, and how many samples their worker had pushed before them."""

    worker: int
    incarnation: int
    before: int
    span: Span


class Pool:
    """See the module. Every span is (start, stop), start < stop."""

    def __init__(self, state: PoolState) -> None:
        self.name = state.name
        self.samples = state.samples
        self.end = state.end
        self.cursor = state.cursor
        self.visited = state.visited
        self._returned = sorted(state.returned)
        self.accounts: dict[int, Account] = {}
        #: Positions that workers hold.
        self.outstanding = 0
        #: Workers whose accounts' rows in the book are out of date.
        self._changed_accounts: set[int] = set()
        #: What was consumed since `remember`; None remembers nothing.
        self._settled: list[_Settled] | None = None

    @property
    def unclaimed(self) -> int | None:
        """Positions that nobody holds and that are still to be visited; None: without end."""
        if self.end is None:
            return None
        return sum(stop - start for start, stop in self._returned) + self.end - self.cursor

    @property
    def lowest_open(self) -> int:
        """The first position not visited yet; everything before it is done."""
        starts = [span[0] for account in self.accounts.values() for span in account.held]
        return min([*starts, *(start for start, _ in self._returned), self.cursor])

    @classmethod
    def attached(cls, name: str, row: PoolRow, accounts: Mapping[int, AccountRow]) -> Pool:
        """The pool of an earlier supervisor, with what workers hold; `accounts` are all its."""
        pool = cls(PoolState(name, row.samples, row.end, row.cursor, row.returned))
        for worker, kept in accounts.items():
            pool.accounts[worker] = Account(
                kept.incarnation,
                kept.seen,
                deque(kept.held),
                kept.claims,
                kept.latest,
                kept.provided,
            )
            pool.outstanding += pool.accounts[worker].held_samples
        free = sum(stop - start for start, stop in row.returned)
        pool.visited = row.cursor - free - pool.outstanding + row.offset
        return pool

    def row(self) -> PoolRow:
        """For the book."""
        free = sum(stop - start for start, stop in self._returned)
        offset = self.visited - (self.cursor - free - self.outstanding)
        return PoolRow(self.samples, self.end, self.cursor, tuple(self._returned), offset)

    def take_changed_accounts(self) -> list[tuple[int, AccountRow | None]]:
        """By worker, for the book, those changed since the last call; None: it holds nothing."""
        changed = [(worker, self._account_row(worker)) for worker in sorted(self._changed_accounts)]
        self._changed_accounts.clear()
        return changed

    def repeated(self, worker: int, incarnation: int, number: int) -> bool | None:
        """Whether the worker's claim of this number was answered before; None: it cannot be.

        number: from 1, one more for each span that the worker has taken over.
        """
        account = self.accounts.get(worker)
        known = account is not None and account.incarnation == incarnation
        claims = account.claims if account is not None and known else 0
        return number <= claims if number <= claims + 1 else None

    def latest(self, worker: int, number: int) -> Span | None:
        """The span that the worker's claim of this number got; None: the worker has it since."""
        account = self.accounts[worker]
        return account.latest if number == account.claims else None

    def claim(self, worker: int, incarnation: int, most: int) -> Span | None:
        """Hand out up to `most` positions of one epoch, or None if none is free."""
        account = self.accounts.get(worker)
        if account is None or account.incarnation != incarnation:
            if account is not None:
                self.release(worker, account.seen)
            account = self.accounts[worker] = Account(incarnation)
        span = self._take(most)
        if span is not None:
            account.held.append(span)
            account.claims += 1
            account.latest = span
            self.outstanding += span[1] - span[0]
            self._changed_accounts.add(worker)
        return span

    def consumed(self, worker: int, samples_seen: int, incarnation: int | None) -> int:
        """Settle what a worker has pushed in all; returns how many of its positions that closed.

        A report older than the last one, or of another incarnation, closes none.
        """
        account = self.accounts.get(worker)
        if account is None or incarnation not in (None, account.incarnation):
            return 0
        fresh = min(samples_seen - account.seen, account.held_samples)
        left = max(fresh, 0)
        before, account.seen = account.seen, max(account.seen, samples_seen)
        self.visited += left
        self.outstanding -= left
        while left:
            start, stop = account.held.popleft()
            done = min(left, stop - start)
            left -= done
            if self._settled is not None:
                span = (start, start + done)
                self._settled.append(_Settled(worker, account.incarnation, before, span))
            before += done
            if start + done < stop:
                account.held.appendleft((start + done, stop))
        return max(fresh, 0)

    def release(self, worker: int, samples_seen: int, incarnation: int | None = None) -> int:
        """Settle, then take back what the worker still holds; returns how many positions."""
        self.consumed(worker, samples_seen, incarnation)
        account = self.accounts.get(worker)
        if account is None or incarnation not in (None, account.incarnation):
            return 0
        del self.accounts[worker]
        self._changed_accounts.add(worker)
        self._returned = joined([*self._returned, *account.held])
        self.outstanding -= account.held_samples
        return account.held_samples

    def remember(self, on: bool) -> None:
        """Whether to remember what is consumed from now on, so that `export` can go back."""
        self._settled = [] if on else None

    def export(self, seen: Seen | None = None) -> PoolState:
        """seen: as of the moment when workers had pushed so much, which was after `remember`."""
        held = [span for account in self.accounts.values() for span in account.held]
        undone = [] if seen is None else self._later_than(seen)
        return PoolState(
            name=self.name,
            samples=self.samples,
            end=self.end,
            cursor=self.cursor,
            returned=tuple(joined([*self._returned, *held, *undone])),
            visited=self.visited - sum(stop - start for start, stop in undone),
        )

    def _later_than(self, seen: Seen) -> list[Span]:
        """What was consumed by samples that workers had not pushed by then."""
        later = []
        for one in self._settled or ():
            start, stop = one.span
            known = seen.get((one.worker, one.incarnation), 0) - one.before
            start += min(max(known, 0), stop - start)
            if start < stop:
                later.append((start, stop))
        return later

    def check_invariants(self) -> None:
        """Raises AssertionError unless every position up to `cursor` is in one place only."""
        held = [span for account in self.accounts.values() for span in account.held]
        assert self.outstanding == sum(stop - start for start, stop in held)
        spans = sorted([*self._returned, *held])
        for (_, stop), (start, _) in itertools.pairwise(spans):
            assert stop <= start, f"positions are in two places: {spans}"
        assert all(0 <= start < stop <= self.cursor for start, stop in spans), spans
        assert self.end is None or self.cursor <= self.end

    def _account_row(self, worker: int) -> AccountRow | None:
        account = self.accounts.get(worker)
        if account is None:
            return None
        return AccountRow(
            self.name,
            account.incarnation,
            account.seen,
            tuple(account.held),
            account.claims,
            account.latest,
            account.provided,
        )

    def _take(self, most: int) -> Span | None:
        start = self._returned[0][0] if self._returned else self.cursor
        epoch_end = (start // self.samples + 1) * self.samples
        stop = min(start + most, epoch_end)
        if self._returned:
            last = self._returned.pop(0)[1]
            stop = min(stop, last)
            if stop < last:
                self._returned.insert(0, (stop, last))
            return start, stop
        stop = stop if self.end is None else min(stop, self.end)
        self.cursor = max(stop, start)
        return (start, stop) if start < stop else None


def joined(spans: list[Span]) -> list[Span]:
    """Spans in rising order, neighbours that touch made one."""
    result: list[Span] = []
    for start, stop in sorted(spans):
        if result and result[-1][1] == start:
            result[-1] = (result[-1][0], stop)
        else:
            result.append((start, stop))
    return result
