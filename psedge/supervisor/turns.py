"""Whose turn it is to claim samples in `bsp`, where a run that is repeated takes the same steps.

All workers step together, so a step is the same moment for all of them. Whoever runs out of samples
first has the next turn: then the ranges come to be used side by side as if everybody claimed one
only when it was due, however far ahead the workers claim and however fast they are.
"""

from __future__ import annotations

from collections.abc import Iterable

from psedge.supervisor.data_pool import Account, Pool

#: Worker and incarnation.
Member = tuple[int, int]


def is_early(pool: Pool, member: Member, others: Iterable[Member]) -> bool:
    """Whether one of `others` needs samples before `member` does, or has not had any yet."""
    own = _account(pool, member)
    if own is None:
        return False
    return any(
        account is None or account.provided < own.provided
        for account in (_account(pool, other) for other in others)
    )


def present_step(pool: Pool, others: Iterable[Member], push: int) -> int:
    """The step that `others` are about to take, as far as their pushes are known.

    push: samples of one step.
    """
    accounts = [_account(pool, other) for other in others]
    return min(
        (
            account.provided - _steps(account.held_samples, push)
            for account in accounts
            if account is not None
        ),
        default=0,
    )


def provide(pool: Pool, member: Member, samples: int, push: int, at_least: int = 0) -> None:
    """A worker was handed so many samples more.

    at_least: the step at which it uses them first, where all others are used up.
    """
    account = _account(pool, member)
    assert account is not None, "it has just been handed a range"
    account.provided = max(account.provided, at_least) + _steps(samples, push)


def _account(pool: Pool, member: Member) -> Account | None:
    worker, incarnation = member
    account = pool.accounts.get(worker)
    return account if account is not None and account.incarnation == incarnation else None


def _steps(samples: int, push: int) -> int:
    return -(-samples // push)
