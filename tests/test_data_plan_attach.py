"""The data plan over the death of its supervisor: what rows of the book make of it again."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.supervisor.data_plan import DataPlan, OutOfStepError, PlanChanges, Range

SAMPLES, TOTAL = 20, 60


def merged(rows: PlanChanges, changes: PlanChanges) -> PlanChanges:
    """The book's rows after these changes were stored."""
    return PlanChanges(
        changes.head or rows.head,
        {**rows.pools, **changes.pools},
        {**rows.accounts, **changes.accounts},
    )


class Run:
    """Workers that train on what they get, servers that count it, and a plan that may die."""

    def __init__(self) -> None:
        self.plan = DataPlan.shared(SAMPLES, TOTAL)
        self.rows = self.plan.take_changes()
        self.incarnations = Counter(dict.fromkeys(range(3), 1))
        self.claims: Counter[int] = Counter()
        self.held: dict[int, deque[int]] = {worker: deque() for worker in range(3)}
        self.pushed: Counter[tuple[int, int]] = Counter()
        self.trained: Counter[int] = Counter()

    def save(self) -> None:
        self.rows = merged(self.rows, self.plan.take_changes())

    def claim(self, worker: int, samples: int, *, dies: bool, answered: bool = True) -> bool:
        number = self.claims[worker] + 1
        found = self.plan.claim(worker, self.incarnations[worker], samples, number)
        if dies:
            self.die()
            return True
        self.save()
        if found is not None and answered:
            self.claims[worker] = number
            first = found.epoch * SAMPLES
            self.held[worker].extend(range(first + found.start, first + found.stop))
        return found is not None

    def train(self, worker: int, samples: int, *, reported: bool) -> None:
        key = worker, self.incarnations[worker]
        for _ in range(min(samples, len(self.held[worker]))):
            self.trained[self.held[worker].popleft()] += 1
            self.pushed[key] += 1
        if reported:
            self.plan.consumed(worker, self.pushed[key], key[1])

    def leave(self, worker: int, *, dies: bool) -> None:
        incarnation = self.incarnations[worker]
        self.plan.release(worker, self.pushed[worker, incarnation], incarnation)
        if dies:
            # Its goodbye was not settled: the next supervisor finds its account, and does it.
            self.die()
            assert set(self.plan.holders()) <= set(self.incarnations.items())
            self.plan.release(worker, self.pushed[worker, incarnation], incarnation)
        self.save()
        self.incarnations[worker] += 1
        self.claims[worker] = 0
        self.held[worker].clear()

    def die(self) -> None:
        """The supervisor, with all that it did not save; servers tell the next one everything."""
        self.plan = DataPlan.attached(self.rows)
        self.plan.check_invariants()
        for (worker, incarnation), samples in self.pushed.items():
            self.plan.consumed(worker, samples, incarnation)
        self.plan.check_invariants()


STEPS = st.tuples(
    st.sampled_from(["claim", "claim-lost", "train", "train-unreported", "leave", "die"]),
    st.integers(0, 2),
    st.integers(1, 9),
    st.booleans(),
)


@given(st.lists(STEPS, max_size=80))
def test_every_position_is_trained_on_once_whatever_dies_when(
    steps: list[tuple[str, int, int, bool]],
) -> None:
    run = Run()
    for what, worker, amount, dies in steps:
        if what in ("claim", "claim-lost"):
            run.claim(worker, amount, dies=dies, answered=what == "claim")
        elif what.startswith("train"):
            run.train(worker, amount, reported=what == "train")
        elif what == "leave":
            run.leave(worker, dies=dies)
        else:
            run.die()
        run.plan.check_invariants()
    for worker in range(3):
        while True:
            run.train(worker, TOTAL, reported=True)
            if not run.claim(worker, 7, dies=False):
                break
    assert run.plan.finished
    assert run.plan.visited == TOTAL
    assert run.trained == Counter(range(TOTAL))


def test_a_repeated_claim_gets_the_same_range_until_the_next_one() -> None:
    plan = DataPlan.shared(10, 20)
    assert plan.claim(0, 1, 4, 1) == Range(0, 0, 4)
    assert plan.claim(0, 1, 4, 1) == Range(0, 0, 4)
    assert plan.outstanding(0) == 4
    assert plan.claim(0, 1, 4, 2) == Range(0, 4, 8)
    assert plan.claim(0, 1, 4, 1) is None, "it was taken over long ago"
    assert plan.claim(0, 2, 4, 1) == Range(0, 0, 4), "another incarnation counts anew"


def test_a_claim_that_is_still_to_come_is_out_of_step() -> None:
    plan = DataPlan.shared(10, 20)
    for number in (2, 7):
        with pytest.raises(OutOfStepError):
            plan.claim(0, 1, 4, number)
    assert plan.claim(0, 1, 4, 1) == Range(0, 0, 4)


def test_a_claim_without_data_does_not_count() -> None:
    plan = DataPlan.shared(4, 4)
    assert plan.claim(0, 1, 4, 1) == Range(0, 0, 4)
    assert plan.claim(1, 1, 4, 1) is None
    plan.release(0, 1, 1)
    assert plan.claim(1, 1, 4, 1) == Range(0, 1, 4)


def test_local_pools_are_found_again_with_data_of_an_earlier_size_behind_them() -> None:
    plan = DataPlan.local(epochs=3)
    plan.open_pool(0, "a", 4)
    plan.claim(0, 1, 3)
    plan.release(0, 3)
    plan.open_pool(0, "a", 10)
    assert plan.claim(0, 2, 100, 1) == Range(1, 0, 10)
    plan.consumed(0, 4, 2)
    rows = plan.take_changes()
    again = DataPlan.attached(rows)
    again.check_invariants()
    assert (again.visited, again.total, again.outstanding(0)) == (7, 23, 6)
    assert again.claim(0, 2, 100, 1) == Range(1, 0, 10)
    assert again.claim(0, 2, 100, 2) == Range(2, 0, 10)


def test_only_what_changed_is_written() -> None:
    plan = DataPlan.local(epochs=9)
    for worker in range(100):
        plan.open_pool(worker, f"w{worker}", 10)
    first = plan.take_changes()
    assert first.head is not None
    assert len(first.pools) == 100
    plan.claim(7, 1, 5, 1)
    changes = plan.take_changes()
    assert changes.head is None
    assert (list(changes.pools), list(changes.accounts)) == (["w7"], [7])
    assert plan.take_changes() == PlanChanges(None, {}, {})
