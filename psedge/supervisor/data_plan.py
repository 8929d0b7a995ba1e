"""Which samples are trained on by whom, so that each epoch visits every sample exactly once.

Shared data is one pool that all workers draw from; local data is a pool per worker, by name, since
no sample leaves its machine. What a leaver has not consumed goes back to its pool, for the others
or for its own return. Workers without a claim wait until a range comes back or all is visited.
"""

from __future__ import annotations

import msgspec

from psedge.protocol.errors import ConfigError, DataError
from psedge.supervisor.data_pool import AccountRow, Pool, PoolRow, PoolState, Seen, Span

_SHARED = ""


class Range(msgspec.Struct, frozen=True):
    """Positions start..stop of one epoch's order, 0 <= start < stop <= samples of the data set."""

    epoch: int
    start: int
    stop: int


class PlanState(msgspec.Struct, frozen=True):
    """What a checkpoint keeps of the plan; ranges that workers held are free again in it."""

    placement: str
    pools: tuple[PoolState, ...] = ()
    epochs: float | None = None
    limit: int | None = None


class PlanHead(msgspec.Struct, frozen=True):
    """What the supervisor's book keeps of a plan, besides its pools and accounts."""

    placement: str
    epochs: float | None = None
    limit: int | None = None


class PlanChanges(msgspec.Struct, frozen=True):
    """Rows of the book that are out of date, or all of them: of a plan that is attached to.

    head: None: it is as it was. accounts: by worker; None: it holds nothing any more.
    """

    head: PlanHead | None
    pools: dict[str, PoolRow]
    accounts: dict[int, AccountRow | None]


class OutOfStepError(Exception):
    """A worker counts ranges that this plan has not handed out to it."""


class DataPlan:
    """Made by `shared`, `local`, `restored` or `attached`."""

    def __init__(self, state: PlanState) -> None:
        self.placement = state.placement
        self.epochs = state.epochs
        self.limit = state.limit
        self._pools = {pool.name: Pool(pool) for pool in state.pools}
        self._pool_of: dict[int, str] = {}
        self._remembers = False
        #: What the book lacks: the head, and pools of which something has changed.
        self._head_changed = True
        self._changed = set(self._pools)

    @classmethod
    def shared(cls, samples: int, total: int) -> DataPlan:
        """One data set of `samples` that every worker has; `total` visits over all epochs.

        Raises DataError for an empty data set.
        """
        _check_samples(samples, "the training data")
        return cls(PlanState("shared", (PoolState(_SHARED, samples, total),)))

    @classmethod
    def local(cls, *, epochs: float | None = None, limit: int | None = None) -> DataPlan:
        """Each worker has data of its own.

        Either `epochs` over each worker's data, or `limit` visits in all of them together.
        """
        assert (epochs is None) != (limit is None), "either epochs or limit"
        return cls(PlanState("local", epochs=epochs, limit=limit))

    @classmethod
    def restored(
        cls,
        state: PlanState,
        *,
        samples: int | None = None,
        total: int | None = None,
        epochs: float | None = None,
        limit: int | None = None,
    ) -> DataPlan:
        """The plan of a checkpoint, continued.

        samples, total: of shared data as they are now. epochs, limit: of local data, as in `local`.
        An end that differs from the checkpoint's lengthens or shortens the run; what has been
        handed out before is visited in any case.
        Raises ConfigError when shared data has another size than in the checkpoint.
        """
        plan = cls(state)
        if state.placement == "local" and (epochs is not None or limit is not None):
            plan.epochs, plan.limit = epochs, limit
        for pool in plan._pools.values():
            if state.placement == "shared":
                _check_same_size(samples, pool.samples)
                end = pool.end if total is None else total
            else:
                end = None if plan.epochs is None else round(plan.epochs * pool.samples)
            pool.end = None if end is None else max(end, pool.cursor)
        return plan

    @classmethod
    def attached(cls, kept: PlanChanges) -> DataPlan:
        """The plan that an earlier supervisor was carrying out, with what workers hold of it."""
        assert kept.head is not None
        plan = cls(PlanState(kept.head.placement, (), kept.head.epochs, kept.head.limit))
        plan._head_changed = False
        by_pool: dict[str, dict[int, AccountRow]] = {name: {} for name in kept.pools}
        for worker, account in kept.accounts.items():
            if account is not None:
                by_pool[account.pool][worker] = account
        for name, row in kept.pools.items():
            plan._pools[name] = Pool.attached(name, row, by_pool[name])
            plan._pool_of.update((worker, name) for worker in by_pool[name] if name != _SHARED)
        return plan

    def take_changes(self) -> PlanChanges:
        """What the book has to be told before anybody hears of the latest claims and releases.

        What was consumed is no change: servers say it again.
        """
        head = PlanHead(self.placement, self.epochs, self.limit) if self._head_changed else None
        changed = [self._pools[name] for name in sorted(self._changed)]
        self._head_changed = False
        self._changed.clear()
        return PlanChanges(
            head,
            {pool.name: pool.row() for pool in changed},
            {worker: row for pool in changed for worker, row in pool.take_changed_accounts()},
        )

    def open_pool(self, worker: int, name: str, samples: int) -> None:
        """A worker with `samples` of its own data came in; nothing happens for shared data.

        A known name goes on where it stopped; with data of another size it does so at the start
        of the next epoch. Raises DataError if it has no data.
        """
        if self.placement == "shared":
            return
        _check_samples(samples, f"worker {name}")
        self._pool_of[worker] = name
        old = self._pools.get(name)
        if old is not None and old.samples == samples:
            return
        end = None if self.epochs is None else round(self.epochs * samples)
        state = PoolState(name, samples, end)
        if old is not None:
            cursor = -(-old.visited // old.samples) * samples
            cursor = cursor if end is None else min(cursor, end)
            state = PoolState(name, samples, end, cursor=cursor, visited=old.visited)
        self._pools[name] = Pool(state)
        self._pools[name].remember(self._remembers)
        self._changed.add(name)

    def claim(self, worker: int, incarnation: int, samples: int, number: int = 0) -> Range | None:
        """Hand out up to `samples` positions, all of one epoch, to a member.

        A new incarnation ends the old one's account: what that held is free again.
        number: of the claim, see `psedge.protocol.messages.Claim`; a repeated one gets the same
        range again. 0: not counted.
        None: nothing is free for this worker; `finished` says whether it may hope.
        Raises OutOfStepError for a number that is still to come.
        """
        pool = self._pool(worker)
        if pool is None:
            return None
        repeated = pool.repeated(worker, incarnation, number) if number else False
        if repeated is None:
            raise OutOfStepError
        if repeated:
            return _range(pool, pool.latest(worker, number))
        self._changed.add(pool.name)
        if self.limit is not None:
            samples = min(samples, self.limit - self.visited - self._outstanding_of_all())
        return _range(pool, pool.claim(worker, incarnation, samples) if samples > 0 else None)

    def is_overtaken(self, worker: int, incarnation: int, number: int) -> bool:
        """Whether the worker has made a later claim than this one. number: as in `claim`."""
        pool = self._pool(worker)
        if pool is None or not number:
            return False
        repeated = pool.repeated(worker, incarnation, number)
        return bool(repeated) and pool.latest(worker, number) is None

    def consumed(self, worker: int, samples_seen: int, incarnation: int | None = None) -> int:
        """Settle the samples a worker has pushed in all under its incarnation.

        Returns how many positions that closed: none for an old report or another incarnation.
        """
        pool = self._pool(worker)
        return 0 if pool is None else pool.consumed(worker, samples_seen, incarnation)

    def release(self, worker: int, samples_seen: int, incarnation: int | None = None) -> int:
        """A worker is gone: settle, and take back what it still held; returns how much that is."""
        pool = self._pool(worker)
        if pool is None:
            return 0
        returned = pool.release(worker, samples_seen, incarnation)
        self._changed.add(pool.name)
        if worker not in pool.accounts:
            self._pool_of.pop(worker, None)
        return returned

    def unclaimed(self, worker: int) -> int | None:
        """Positions that nobody holds and that this worker may get; None: without end."""
        pool = self._pool(worker)
        return 0 if pool is None else pool.unclaimed

    def holders(self) -> list[tuple[int, int]]:
        """(worker, incarnation) of everybody with an account."""
        return [
            (worker, account.incarnation)
            for pool in self._pools.values()
            for worker, account in pool.accounts.items()
        ]

    def pool_of(self, worker: int) -> Pool | None:
        """Where a worker's samples come from."""
        return self._pool(worker)

    def has_account(self, worker: int, incarnation: int) -> bool:
        """Whether something is still to be settled with a worker under this incarnation."""
        pool = self._pool(worker)
        account = None if pool is None else pool.accounts.get(worker)
        return account is not None and account.incarnation == incarnation

    def outstanding(self, worker: int) -> int:
        """Positions that a worker holds."""
        pool = self._pool(worker)
        account = None if pool is None else pool.accounts.get(worker)
        return 0 if account is None else account.held_samples

    @property
    def visited(self) -> int:
        """Samples consumed so far."""
        return sum(pool.visited for pool in self._pools.values())

    @property
    def total(self) -> int:
        """Samples that will have been consumed at the end, by the pools that are there now."""
        if self.limit is not None:
            return self.limit
        return sum(
            pool.visited + pool.outstanding + (pool.unclaimed or 0) * self._present(pool)
            for pool in self._pools.values()
        )

    @property
    def samples_per_epoch(self) -> int:
        """Size of all data, of workers that are away too; 0 before the first one came."""
        return sum(pool.samples for pool in self._pools.values())

    @property
    def epoch(self) -> int:
        """The epoch that is being visited, from 0: the lowest with an open position."""
        return min(
            (pool.lowest_open // pool.samples for pool in self._pools.values()
             if self._present(pool)),
            default=0,
        )  # fmt: skip

    @property
    def finished(self) -> bool:
        """Nothing is left to do for the workers that are there.

        Local data may leave with its worker; but a run is not finished by everyone being away,
        unless all had been visited.
        """
        if self.limit is not None:
            return self.visited >= self.limit
        present = [pool for pool in self._pools.values() if self._present(pool)]
        needed = present or self._pools.values()
        unclaimed = sum(pool.unclaimed or 0 for pool in needed)
        return bool(self._pools) and unclaimed + self._outstanding_of_all() == 0

    def remember(self, on: bool) -> None:
        """Whether to remember what is consumed from now on, so that `export` can go back."""
        self._remembers = on
        for pool in self._pools.values():
            pool.remember(on)

    def export(self, seen: Seen | None = None) -> PlanState:
        """seen: samples by worker and incarnation; the plan is then as it was with these.

        That must be after the latest `remember`. None: as it is.
        """
        pools = tuple(pool.export(seen) for pool in self._pools.values())
        return PlanState(self.placement, pools, self.epochs, self.limit)

    def check_invariants(self) -> None:
        """Raises AssertionError if a position is in two places or more was visited than planned."""
        for pool in self._pools.values():
            pool.check_invariants()
        if self.limit is not None:
            assert self.visited + self._outstanding_of_all() <= self.limit
        assert self.visited <= self.total

    def _pool(self, worker: int) -> Pool | None:
        name = _SHARED if self.placement == "shared" else self._pool_of.get(worker)
        return None if name is None else self._pools.get(name)

    def _present(self, pool: Pool) -> bool:
        return self.placement == "shared" or pool.name in self._pool_of.values()

    def _outstanding_of_all(self) -> int:
        return sum(pool.outstanding for pool in self._pools.values())


def _range(pool: Pool, span: Span | None) -> Range | None:
    """A span of positions as a worker knows it."""
    if span is None:
        return None
    epoch = span[0] // pool.samples
    return Range(epoch, span[0] - epoch * pool.samples, span[1] - epoch * pool.samples)


def _check_same_size(now: int | None, before: int) -> None:
    if now is not None and now != before:
        raise ConfigError(
            f"the training data has {now} samples, the checkpoint was made with {before}: "
            "use the same data to resume, or start a new run"
        )


def _check_samples(samples: int, whose: str) -> None:
    if samples < 1:
        raise DataError(f"{whose} has no samples to train on: check [data] path and train_limit")
