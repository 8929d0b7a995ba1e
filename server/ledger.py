"""The ledger of a shard: what each worker has pushed and what became of it.

It is what exactly-once rests on, twice: the last sequence of a worker tells a retry from a new
push, and the count of samples tells the supervisor which part of a leaver's data is done.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from psedge.protocol.errors import RefusedError
from psedge.protocol.shards import AccountState, Member, Progress, ShardReport, ShardState
from psedge.protocol.wire import Status
from psedge.server.push import Outcome, Push

#: Departed workers that are remembered, besides those of the latest change.
DEPARTED_LIMIT = 256


@dataclass(frozen=True, slots=True)
class _Entry:
    """One push, as far as it is counted."""

    sequence: int
    samples: int
    outcome: Outcome


@dataclass(slots=True, eq=False)
class _Account:
    """One incarnation of a worker.

    progress: pushes whose effect, if any, is in the parameters.
    received: highest sequence that arrived; ahead of `progress` while a `bsp` round gathers.
    latest_status: of its latest push, NONE before the first one and after a restart.
    latest_samples: of its latest push, 0 before the first one.
    idle: it has no data for now, so its latest push no longer counts as recent.
    pending: entries of a `bsp` round that is not complete.
    """

    progress: Progress
    received: int
    latest_status: Status = Status.NONE
    latest_samples: int = 0
    idle: bool = False
    pending: tuple[_Entry, ...] = ()

    @property
    def key(self) -> tuple[int, int]:
        return self.progress.worker, self.progress.incarnation

    @classmethod
    def restored(cls, saved: AccountState) -> _Account:
        """Raises ValueError for a status that is none."""
        status = Status(saved.latest_status)
        sequence = saved.progress.sequence
        return cls(saved.progress, sequence, status, saved.latest_samples, saved.idle)

    def saved(self, clock: int, *, member: bool) -> AccountState:
        """clock: at the gate. What is pending is not in it."""
        status = int(self.latest_status)
        return AccountState(
            self.progress, clock, status, self.latest_samples, member=member, idle=self.idle
        )

    def settle(self, entry: _Entry) -> None:
        """Count one push; called in the order of the sequences."""
        done, outcome = self.progress, entry.outcome
        status = outcome.status
        self.progress = Progress(
            worker=done.worker,
            incarnation=done.incarnation,
            clock=outcome.clock,
            sequence=entry.sequence,
            samples=done.samples + entry.samples,
            pushes_applied=done.pushes_applied + (status is Status.APPLIED),
            pushes_refused_nonfinite=done.pushes_refused_nonfinite
            + (status is Status.REFUSED_NONFINITE),
            pushes_refused_lag=done.pushes_refused_lag + (status is Status.REFUSED_LAG),
            staleness=outcome.staleness,
            staleness_max=max(done.staleness_max, outcome.staleness),
            lag_max=max(done.lag_max, outcome.lag),
        )


class Ledger:
    """Accounts of the members and of the departed, and totals over everyone there ever was."""

    def __init__(self, state: ShardState) -> None:
        """Raises ValueError if the state's accounts have a status that is none."""
        self.samples_applied = state.samples_applied
        self.samples_seen = state.samples_seen
        self.pushes_applied = state.pushes_applied
        self.pushes_refused = state.pushes_refused
        self.staleness_max = state.staleness_max
        self.lag_max = state.lag_max
        accounts = state.accounts or ()
        self._members = {
            saved.progress.worker: _Account.restored(saved) for saved in accounts if saved.member
        }
        #: By worker and incarnation, in the order of departure. After a checkpoint there are no
        #: members yet, only workers that may come back.
        self._departed = {
            (progress.worker, progress.incarnation): _Account(progress, progress.sequence)
            for progress in state.workers
        }
        for account in (_Account.restored(saved) for saved in accounts if not saved.member):
            self._departed[account.key] = account
        #: Sum of the latest samples of all members that are not idle.
        self._active_samples = sum(_active(account) for account in self._members.values())
        #: The number of each account's latest change, the latest last.
        self._changes: dict[tuple[int, int], int] = {}
        self._change = 0
        for account in (*self._departed.values(), *self._members.values()):
            if account.received or state.accounts is None:
                self._note_change(account)

    def is_member(self, worker: int, incarnation: int | None = None) -> bool:
        """Whether the worker is a member, under this incarnation or under any."""
        account = self._members.get(worker)
        return account is not None and incarnation in (None, account.progress.incarnation)

    def is_duplicate(self, push: Push) -> bool:
        """Whether a member's push had arrived before."""
        return push.sequence <= self._members[push.worker].received

    def require_next(self, push: Push) -> None:
        """Raise RefusedError `unknown-worker` unless a member's push follows its latest one.

        Those between are lost, with a primary that had acknowledged them. How far this worker came
        in its data can only be told up to there, so it has to come in anew.
        """
        received = self._members[push.worker].received
        if push.sequence != received + 1:
            raise RefusedError(
                "unknown-worker",
                f"worker {push.worker} sends push {push.sequence}, and of those before it only "
                f"{received} are here: join again",
            )

    def status_of_retry(self, push: Push) -> Status:
        """What a member is told about a push that had arrived before.

        A refusal is told again, because the worker has yet to take back what that push carried.
        """
        account = self._members[push.worker]
        latest = push.sequence == account.received
        refused = account.latest_status in (Status.REFUSED_NONFINITE, Status.REFUSED_LAG)
        return account.latest_status if latest and refused else Status.DUPLICATE

    def set_members(self, members: Sequence[Member]) -> None:
        """Open accounts for those who come in, or take up the ones they had.

        What a leaver has in an unfinished round stays in that round, so it is counted now.
        """
        self._forget_departed()
        known = self._departed | {account.key: account for account in self._members.values()}
        self._members = {}
        for member in members:
            key = (member.worker, member.incarnation)
            account = known.pop(key, None) or _Account(Progress(*key), received=0)
            account.idle = member.idle
            self._members[member.worker] = account
        self._departed = known
        for account in known.values():
            self._settle_pending(account)
        self._active_samples = sum(
            account.latest_samples for account in self._members.values() if not account.idle
        )

    def change_members(self, members: Sequence[Member], gone: Sequence[int]) -> None:
        """As `set_members` of everyone, given those that changed and those that are no longer."""
        self._forget_departed()
        for worker in gone:
            self._depart(worker)
        for member in members:
            key = (member.worker, member.incarnation)
            account = self._members.get(member.worker)
            if account is not None and account.key == key:
                self._active_samples -= _active(account)
            else:
                self._depart(member.worker)
                account = self._departed.pop(key, None) or _Account(Progress(*key), received=0)
                self._members[member.worker] = account
            account.idle = member.idle
            self._active_samples += _active(account)

    def place(self, worker: int, clock: int) -> None:
        """A member that has pushed nothing yet starts at `clock`."""
        account = self._members[worker]
        if account.received == 0:
            account.progress = msgspec.structs.replace(account.progress, clock=clock)

    def enter(self, push: Push, outcome: Outcome, *, pending: bool) -> None:
        """A member's new push has arrived. A pending one counts when its round is complete."""
        account = self._members[push.worker]
        if not account.idle:
            self._active_samples += push.samples - account.latest_samples
        account.latest_samples = push.samples
        account.latest_status = outcome.status
        account.received = push.sequence
        account.pending += (_Entry(push.sequence, push.samples, outcome),)
        if not pending:
            self._settle_pending(account)

    def complete_round(self) -> None:
        """Count every pending push."""
        for account in self._members.values():
            self._settle_pending(account)

    def share(self, worker: int) -> float:
        """What part of the latest samples of all active members is this one's, in (0, 1]."""
        account = self._members[worker]
        others = self._active_samples - _active(account)
        return account.latest_samples / (account.latest_samples + others)

    def accounts(self, clocks: Mapping[int, int]) -> tuple[AccountState, ...]:
        """All accounts, for a ledger that goes on as this one; what is pending is left out.

        clocks: of the members, at the gate.
        """
        members = [
            account.saved(clocks[worker], member=True) for worker, account in self._members.items()
        ]
        departed = [
            account.saved(account.progress.clock, member=False)
            for account in self._departed.values()
        ]
        return (*members, *departed)

    @property
    def has_pending(self) -> bool:
        """Whether some push waits for its round; O(members)."""
        return any(account.pending for account in self._members.values())

    def received(self) -> list[int]:
        """The latest sequence of each member, those of an unfinished round included."""
        return [account.received for account in self._members.values()]

    def report(
        self, shard: int, version: int, workers: tuple[Progress, ...] | None = None
    ) -> ShardReport:
        """The ledger in figures. workers: None for all of them, members first."""
        if workers is None:
            workers = tuple(account.progress for account in self._accounts())
        return ShardReport(
            shard=shard,
            version=version,
            samples_applied=self.samples_applied,
            samples_seen=self.samples_seen,
            pushes_applied=self.pushes_applied,
            pushes_refused=self.pushes_refused,
            staleness_max=self.staleness_max,
            lag_max=self.lag_max,
            workers=workers,
        )

    def changes(self, since: int, most: int | None = None) -> tuple[tuple[Progress, ...], int]:
        """Progress that changed after change `since`, the latest last, and up to which change.

        most: so many workers, those that waited longest; None for any number.
        """
        keys = list(
            itertools.takewhile(lambda key: self._changes[key] > since, reversed(self._changes))
        )
        keys = keys[::-1][:most]
        found = tuple(self._account(key).progress for key in keys)
        return found, self._changes[keys[-1]] if keys else since

    def check_invariants(self) -> None:
        """Raise AssertionError if the accounts contradict each other or the totals."""
        accounts = list(self._accounts())
        assert self.samples_applied <= self.samples_seen
        assert sum(account.progress.samples for account in accounts) <= self.samples_seen
        assert self._active_samples == sum(
            account.latest_samples for account in self._members.values() if not account.idle
        )
        assert all(account.progress.sequence <= account.received for account in accounts)
        assert not any(account.pending for account in self._departed.values())
        assert all(self._account(key).key == key for key in self._changes)

    def _accounts(self) -> Iterator[_Account]:
        yield from self._members.values()
        yield from self._departed.values()

    def _account(self, key: tuple[int, int]) -> _Account:
        account = self._members.get(key[0])
        return account if account is not None and account.key == key else self._departed[key]

    def _note_change(self, account: _Account) -> None:
        self._change += 1
        self._changes.pop(account.key, None)
        self._changes[account.key] = self._change

    def _depart(self, worker: int) -> None:
        """What it has in an unfinished round stays in that round, so it is counted now."""
        account = self._members.pop(worker, None)
        if account is not None:
            self._active_samples -= _active(account)
            self._departed[account.key] = account
            self._settle_pending(account)

    def _forget_departed(self) -> None:
        for forgotten in list(self._departed)[:-DEPARTED_LIMIT]:
            del self._departed[forgotten]
            self._changes.pop(forgotten, None)

    def _settle_pending(self, account: _Account) -> None:
        if account.pending:
            self._note_change(account)
        for entry in account.pending:
            account.settle(entry)
            outcome = entry.outcome
            applied = outcome.status is Status.APPLIED
            self.samples_seen += entry.samples
            self.samples_applied += entry.samples if applied else 0
            self.pushes_applied += applied
            self.pushes_refused += not applied
            self.staleness_max = max(self.staleness_max, outcome.staleness)
            self.lag_max = max(self.lag_max, outcome.lag)
        account.pending = ()


def _active(account: _Account) -> int:
    """What the account counts for among the latest samples of active members."""
    return 0 if account.idle else account.latest_samples
