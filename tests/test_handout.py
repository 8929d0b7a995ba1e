"""What claims get in `bsp`: the same steps, in whatever order and however far ahead they come."""

from __future__ import annotations

import random
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.protocol.messages import Claim, Heartbeat
from psedge.supervisor.data_plan import DataPlan, PlanChanges
from psedge.supervisor.handout import MOST_RANGES, Handout
from psedge.supervisor.membership import Membership
from psedge.toml_config import load_config

PUSH = 4
#: Steps of a range.
STEPS = 3


def state_of(mode: str = "bsp") -> Any:
    experiment = load_config(
        {
            "model": {"factory": "mlp"},
            "data": {"dataset": "npz", "path": "x.npz", "batch_size": PUSH},
            "cluster": {"range_batches": STEPS},
        }
    )
    return SimpleNamespace(
        experiment=experiment,
        sync=SimpleNamespace(mode=mode),
        membership=Membership(9.0),
        rate_samples_per_second=0.0,
    )


class Joint:
    """Workers that step together; each holds `ahead` steps at most, by chance fewer.

    restarts: whether the supervisor is started anew now and then.
    """

    def __init__(
        self, workers: int, samples: int, epochs: int, seed: int, ahead: int, *, restarts: bool
    ) -> None:
        self.chance = random.Random(seed)
        self.ahead, self.restarts = ahead, restarts
        self.state = state_of()
        self.plan = DataPlan.shared(samples, samples * epochs)
        for worker in range(workers):
            self.state.membership.join(f"pi-{worker}", worker, 0.0)
        self.held: list[deque[frozenset[tuple[int, int]]]] = [deque() for _ in range(workers)]
        self.claims = [0] * workers
        self.seen = [0] * workers
        self.book = PlanChanges(None, {}, {})

    def run(self) -> list[frozenset[tuple[int, int]]]:
        """The samples of each joint step."""
        steps = []
        while True:
            for worker in self.shuffled():
                while self.chance.random() < 0.8 and 0 < len(self.held[worker]) < self.ahead:
                    if not self.claim(worker, idle=False):
                        break
            for worker in self.shuffled():
                if not self.held[worker]:
                    found = self.claim(worker, idle=True)
                    self.state.membership.set_idle(worker, worker, not found)
            if not any(self.held):
                return steps
            taken = [held.popleft() for held in self.held if held]
            assert sum(map(len, taken)) == len(frozenset().union(*taken))
            steps.append(frozenset().union(*taken))
            if self.chance.random() < 0.3:
                self.count()

    def claim(self, worker: int, *, idle: bool) -> bool:
        claim = Claim(worker, worker, idle, self.claims[worker] + 1)
        entry = self.state.membership.entry(worker, worker)
        handout = Handout(self.state, self.plan)
        if handout.is_early(claim):
            return False
        found = handout.claim(claim, entry)
        self.save()
        if self.chance.random() < 0.2:
            # The answer is lost, and the claim made again.
            assert not Handout(self.state, self.plan).is_early(claim)
            assert Handout(self.state, self.plan).claim(claim, entry) == found
        if found is None:
            return False
        self.claims[worker] += 1
        for start in range(found.start, found.stop, PUSH):
            stop = min(start + PUSH, found.stop)
            self.held[worker].append(frozenset((found.epoch, at) for at in range(start, stop)))
            self.seen[worker] += stop - start
        return True

    def count(self) -> None:
        """The first shard's report arrives."""
        for worker, held in enumerate(self.held):
            self.plan.consumed(worker, self.seen[worker] - sum(map(len, held)), worker)
        self.plan.check_invariants()

    def save(self) -> None:
        changes, book = self.plan.take_changes(), self.book
        self.book = PlanChanges(
            changes.head or book.head,
            book.pools | changes.pools,
            book.accounts | changes.accounts,
        )
        if self.restarts and self.chance.random() < 0.1:
            self.plan = DataPlan.attached(self.book)

    def shuffled(self) -> list[int]:
        workers = list(range(len(self.held)))
        self.chance.shuffle(workers)
        return workers


@given(
    st.integers(1, 5),
    st.integers(PUSH, 100),
    st.integers(1, 4),
    st.integers(0, 2**32),
    st.integers(2, 40),
    st.booleans(),
)
def test_a_run_takes_the_same_steps_however_far_ahead_its_workers_claim(
    workers: int, samples: int, epochs: int, seed: int, ahead: int, restarts: bool
) -> None:
    lazily = Joint(workers, samples, epochs, 0, 1, restarts=False).run()
    found = Joint(workers, samples, epochs, seed, ahead, restarts=restarts).run()
    assert found == lazily
    assert sum(map(len, found)) == samples * epochs


def test_who_comes_later_gets_as_far_ahead_as_the_others() -> None:
    world = Joint(2, 10_000, 1, 1, 30, restarts=False)
    for _ in range(12):
        for worker in (0, 1):
            world.claim(worker, idle=not world.held[worker])
    world.state.membership.join("late", 2, 1.0)
    world.held.append(deque())
    world.claims.append(0)
    world.seen.append(0)
    # They go on with what they hold until the newcomer has begun.
    assert not world.claim(0, idle=False)
    assert world.claim(2, idle=True)
    assert not world.claim(0, idle=False)
    while world.claim(2, idle=False):
        pass
    assert len(world.held[0]) < len(world.held[2]) <= len(world.held[0]) + STEPS
    assert world.claim(0, idle=False)


def beating(rate: float, mode: str = "bsp", unclaimed: int = 10**6) -> tuple[Handout, Any]:
    state = state_of(mode)
    state.membership.join("pi", 1, 0.0)
    state.membership.renew(0, 1, 0.0, Heartbeat(0, 1, rate_samples_per_second=rate))
    state.rate_samples_per_second = rate
    return Handout(state, DataPlan.shared(unclaimed, unclaimed)), state.membership.entry(0, 1)


@pytest.mark.parametrize(
    ("rate", "ranges"), [(0.0, 0), (1.0, 0), (12.0, 19), (1e6, MOST_RANGES - 1)]
)
def test_a_worker_holds_ranges_for_a_while(rate: float, ranges: int) -> None:
    handout, entry = beating(rate)
    assert handout.reserve(entry) // (PUSH * STEPS) == ranges
    found = handout.claim(Claim(0, 1, idle=True, claim=1), entry)
    assert found is not None
    assert found.stop - found.start == PUSH * STEPS


def test_less_and_less_towards_the_end() -> None:
    handout, entry = beating(12.0, unclaimed=480)
    assert handout.reserve(entry) == 480 // 4 - PUSH * STEPS


def test_other_modes_hand_out_one_large_range_to_whoever_asks() -> None:
    handout, entry = beating(12.0, "ssp")
    assert handout.reserve(entry) == 0
    found = handout.claim(Claim(0, 1, idle=True, claim=1), entry)
    assert found is not None
    assert found.stop - found.start == 240
    assert not handout.is_early(Claim(0, 1, idle=False, claim=2))


def test_the_turn_of_a_worker_that_needs_no_samples_is_not_waited_for() -> None:
    world = Joint(3, 1000, 1, 1, 30, restarts=False)
    assert world.claim(0, idle=True)
    assert not world.claim(0, idle=False)
    world.state.membership.set_idle(1, 1, True)
    world.state.membership.leave(2, 2)
    world.state.membership.join("own loop", 3, 0.0, loader=False)
    assert world.claim(0, idle=False)
