"""Every sample of an epoch exactly once, whoever comes and goes."""

from __future__ import annotations

from collections import Counter, deque

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psedge.protocol.errors import ConfigError, DataError
from psedge.supervisor.data_plan import DataPlan, PlanState, Range


class Crew:
    """Workers that consume what they are handed, in order, and remember what they trained on."""

    def __init__(self, plan: DataPlan) -> None:
        self.plan = plan
        self.trained: Counter[tuple[str, int, int]] = Counter()
        self.incarnations: dict[int, int] = {}
        self._held: dict[int, deque[tuple[int, int]]] = {}
        self._seen: dict[int, int] = {}

    def join(self, worker: int) -> None:
        self.incarnations[worker] = self.incarnations.get(worker, 0) + 1
        self._held[worker], self._seen[worker] = deque(), 0

    def claim(self, worker: int, most: int) -> Range | None:
        found = self.plan.claim(worker, self.incarnations[worker], most)
        if found is not None:
            assert 0 < found.stop - found.start <= most
            places = range(found.start, found.stop)
            self._held[worker].extend((found.epoch, place) for place in places)
        return found

    def train(self, worker: int, samples: int, pool: str = "") -> None:
        for _ in range(min(samples, len(self._held[worker]))):
            epoch, place = self._held[worker].popleft()
            self.trained[pool, epoch, place] += 1
            self._seen[worker] += 1

    def report(self, worker: int) -> int:
        return self.plan.consumed(worker, self._seen[worker], self.incarnations[worker])

    def die(self, worker: int) -> int:
        self._held[worker].clear()
        return self.plan.release(worker, self._seen[worker], self.incarnations[worker])

    def finish(self, workers: list[int], most: int) -> None:
        """Let the workers train until there is nothing left to claim."""
        for _ in range(10_000):
            for worker in workers:
                self.train(worker, len(self._held[worker]))
                self.report(worker)
            claims = [self.claim(worker, most) for worker in workers]
            if not any(claims):
                break


def _expected(samples: int, total: int) -> Counter[tuple[str, int, int]]:
    return Counter(("", position // samples, position % samples) for position in range(total))


@settings(max_examples=150)
@given(
    samples=st.integers(1, 60),
    total=st.integers(0, 200),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["claim", "train", "report", "die", "silent", "restore"]),
            st.integers(0, 3),
            st.integers(1, 30),
        ),
        max_size=80,
    ),
)
def test_each_epoch_visits_every_position_once(
    samples: int, total: int, steps: list[tuple[str, int, int]]
) -> None:
    crew = Crew(DataPlan.shared(samples, total))
    for worker in range(4):
        crew.join(worker)
    for action, worker, amount in steps:
        if action == "claim":
            crew.claim(worker, amount)
        elif action == "train":
            crew.train(worker, amount)
        elif action == "report":
            crew.report(worker)
        elif action == "die":
            crew.die(worker)
            crew.join(worker)
        elif action == "silent":
            crew.report(worker)
            crew.join(worker)
            crew.claim(worker, amount)
        else:
            for each in range(4):
                crew.report(each)
            state = msgspec.json.encode(crew.plan.export())
            crew.plan = DataPlan.restored(msgspec.json.decode(state, type=PlanState))
            for each in range(4):
                crew.join(each)
        crew.plan.check_invariants()
        assert crew.plan.total == total
    crew.finish([1, 2], 13)
    for worker in (0, 3):
        crew.die(worker)
    crew.finish([1, 2], 13)
    assert crew.trained == _expected(samples, total)
    assert crew.plan.finished
    assert crew.plan.visited == total


def test_ranges_come_in_order_and_end_with_the_epoch() -> None:
    plan = DataPlan.shared(10, 25)
    claims = [plan.claim(0, 1, 4) for _ in range(8)]
    assert [(c.epoch, c.start, c.stop) for c in claims if c] == [
        (0, 0, 4), (0, 4, 8), (0, 8, 10), (1, 0, 4), (1, 4, 8), (1, 8, 10), (2, 0, 4), (2, 4, 5),
    ]  # fmt: skip
    assert plan.claim(0, 1, 4) is None
    assert not plan.finished
    assert plan.outstanding(0) == 25
    assert plan.consumed(0, 25) == 25
    assert plan.finished
    assert plan.visited == 25


def test_what_a_leaver_held_goes_to_the_next_who_asks() -> None:
    plan = DataPlan.shared(100, 100)
    plan.claim(0, 1, 10)
    plan.claim(0, 1, 10)
    plan.claim(1, 1, 10)
    assert plan.release(0, 13, 1) == 7
    assert plan.claim(1, 1, 5) == Range(0, 13, 18)
    assert plan.claim(1, 1, 5) == Range(0, 18, 20)
    assert plan.claim(1, 1, 5) == Range(0, 30, 35)
    assert plan.epoch == 0


def test_old_reports_and_other_incarnations_close_nothing() -> None:
    plan = DataPlan.shared(100, 100)
    plan.claim(0, 2, 10)
    assert plan.consumed(0, 6, 2) == 6
    assert plan.consumed(0, 4, 2) == 0
    assert plan.consumed(0, 9, 1) == 0
    assert plan.release(0, 9, 1) == 0
    assert plan.consumed(5, 9) == 0
    assert plan.consumed(0, 8, 2) == 2
    assert plan.visited == 8
    assert plan.consumed(0, 50, 2) == 2, "nobody consumes more than was handed out"


def test_the_epoch_is_that_of_the_lowest_open_position() -> None:
    plan = DataPlan.shared(10, 30)
    plan.claim(0, 1, 10)
    plan.claim(1, 1, 10)
    plan.consumed(1, 10)
    assert plan.epoch == 0
    plan.consumed(0, 10)
    assert plan.epoch == 2


def test_local_pools_belong_to_their_workers() -> None:
    plan = DataPlan.local(epochs=2)
    assert not plan.finished
    assert plan.claim(0, 1, 5) is None, "without a pool there is nothing to claim"
    plan.open_pool(0, "line-a", 6)
    plan.open_pool(1, "line-b", 3)
    assert plan.total == 18
    assert plan.samples_per_epoch == 9
    assert plan.claim(0, 1, 4) == Range(0, 0, 4)
    assert plan.claim(1, 1, 4) == Range(0, 0, 3)
    plan.consumed(0, 4)
    plan.consumed(1, 2)
    assert plan.release(1, 2) == 1
    assert plan.total == 14, "what only a leaver has leaves with it"
    plan.open_pool(1, "line-b", 3)
    assert plan.claim(1, 2, 4) == Range(0, 2, 3)
    plan.check_invariants()


def test_local_data_leaves_with_its_worker_but_does_not_end_an_empty_run() -> None:
    plan = DataPlan.local(epochs=1)
    plan.open_pool(0, "a", 4)
    plan.open_pool(1, "b", 4)
    plan.claim(0, 1, 4)
    plan.release(0, 1)
    plan.release(1, 0)
    assert not plan.finished
    assert plan.samples_per_epoch == 8, "epochs are counted over all data, whoever is away"
    plan.open_pool(1, "b", 4)
    plan.claim(1, 2, 4)
    plan.consumed(1, 4)
    assert plan.finished
    plan.release(1, 4)
    assert not plan.finished, "worker 0 may come back to its data"
    plan.open_pool(0, "a", 4)
    plan.claim(0, 2, 4)
    plan.release(0, 3)
    assert plan.finished


def test_local_pool_of_another_size_goes_on_with_the_next_epoch() -> None:
    plan = DataPlan.local(epochs=3)
    plan.open_pool(0, "a", 4)
    plan.claim(0, 1, 3)
    plan.release(0, 3)
    plan.open_pool(0, "a", 10)
    assert plan.claim(0, 2, 100) == Range(1, 0, 10)
    assert plan.claim(0, 2, 100) == Range(2, 0, 10)
    assert plan.claim(0, 2, 100) is None
    assert plan.total == 23


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9), st.booleans()), max_size=60))
def test_a_limit_over_local_pools_is_met_exactly(steps: list[tuple[int, int, bool]]) -> None:
    plan = DataPlan.local(limit=50)
    crew = Crew(plan)
    for worker in range(3):
        plan.open_pool(worker, f"w{worker}", 4 + worker)
        crew.join(worker)
    for worker, amount, dies in steps:
        crew.claim(worker, amount)
        crew.train(worker, amount, f"w{worker}")
        crew.report(worker)
        if dies:
            crew.die(worker)
            plan.open_pool(worker, f"w{worker}", 4 + worker)
            crew.join(worker)
        plan.check_invariants()
    crew.finish([0, 1, 2], 7)
    assert plan.finished
    assert plan.visited == 50 == crew.trained.total()


def test_a_resume_may_lengthen_the_run_but_not_change_the_data() -> None:
    plan = DataPlan.shared(10, 10)
    plan.claim(0, 1, 10)
    plan.consumed(0, 6)
    state = plan.export()
    longer = DataPlan.restored(state, samples=10, total=20)
    assert (longer.visited, longer.total) == (6, 20)
    assert longer.claim(0, 1, 10) == Range(0, 6, 10)
    assert DataPlan.restored(state, total=3).total == 10, "handed out before: visited in any case"
    with pytest.raises(ConfigError, match="11 samples, the checkpoint was made with 10"):
        DataPlan.restored(state, samples=11)


def test_a_local_resume_may_lengthen_the_run() -> None:
    plan = DataPlan.local(epochs=1)
    plan.open_pool(0, "a", 4)
    plan.claim(0, 1, 4)
    plan.consumed(0, 4)
    assert plan.finished
    longer = DataPlan.restored(plan.export(), epochs=2)
    longer.open_pool(3, "a", 4)
    assert longer.claim(3, 1, 9) == Range(1, 0, 4)


def test_empty_data_is_a_clear_error() -> None:
    with pytest.raises(DataError, match="no samples"):
        DataPlan.shared(0, 0)
    with pytest.raises(DataError, match="worker a has no samples"):
        DataPlan.local(epochs=1).open_pool(0, "a", 0)


def test_an_export_goes_back_to_what_had_been_pushed_by_then() -> None:
    plan = DataPlan.shared(10, 20)
    plan.claim(0, 1, 6)
    plan.claim(1, 1, 4)
    plan.consumed(0, 2)
    plan.remember(True)
    # Two more of one worker, three of the other, which leaves; a third takes what it leaves.
    plan.consumed(0, 4)
    plan.release(1, 3, 1)
    plan.claim(2, 1, 1)
    plan.consumed(2, 1, 1)
    state = plan.export({(0, 1): 3, (1, 1): 1})
    assert state.pools[0].visited == 4
    again = DataPlan.restored(state)
    again.check_invariants()
    handed = set()
    while (found := again.claim(7, 9, 3)) is not None:
        handed |= {10 * found.epoch + position for position in range(found.start, found.stop)}
    assert handed == set(range(20)) - {0, 1, 2, 6}
    plan.remember(False)
    assert plan.export({}) == plan.export()
