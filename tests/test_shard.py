"""A shard as a whole: every way a push can go, and what is promised about each."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from psedge.protocol.errors import FrameError, RefusedError
from psedge.protocol.messages import (
    Assignment,
    GroupSettings,
    Member,
    Members,
    OptimizerSettings,
    Progress,
    ScheduleSettings,
    Segment,
    SyncSettings,
)
from psedge.protocol.wire import Status
from psedge.server.shard import Outcome, Push, Shard

SGD = OptimizerSettings("sgd", (GroupSettings(lr=1.0),))


def vector(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def assignment(
    sync: SyncSettings,
    optimizer: OptimizerSettings = SGD,
    schedule: ScheduleSettings = ScheduleSettings(),
) -> Assignment:
    return Assignment(
        shard=0,
        start=10,
        stop=12,
        buffers_start=3,
        buffers_stop=4,
        counters_bytes=1,
        segments=(Segment(0, 2, 0),),
        optimizer=optimizer,
        schedule=schedule,
        sync=sync,
    )


class Cluster:
    """A shard and what its workers know, so that a test says only who pushes what."""

    def __init__(self, mode: Any = "asp", workers: int = 2, **further: Any) -> None:
        names = ("optimizer", "schedule")
        settings = {name: further.pop(name) for name in names if name in further}
        self.shard = Shard(
            assignment(SyncSettings(mode, **further), **settings),
            vector(0.0, 0.0),
            vector(0.0),
            b"\x00",
        )
        self.members = {worker: Member(worker, 1) for worker in range(workers)}
        self.sequences: dict[tuple[int, int], int] = {}
        self.revision = 0
        self.tell()

    def tell(self) -> None:
        self.revision += 1
        self.shard.set_members(Members(self.revision, tuple(self.members.values())))

    def push(self, worker: int, *gradient: float, samples: int = 1, **further: Any) -> Outcome:
        key = (worker, self.members[worker].incarnation)
        self.sequences[key] = self.sequences.get(key, 0) + 1
        push = Push(*key, self.sequences[key], self.shard.version, samples)
        outcome = self.shard.push(dataclasses.replace(push, **further), vector(*gradient))
        self.shard.check_invariants()
        return outcome

    def progress(self, worker: int, incarnation: int = 1) -> Progress:
        return next(
            progress
            for progress in self.shard.report().workers
            if (progress.worker, progress.incarnation) == (worker, incarnation)
        )

    def bits(self) -> dict[str, bytes]:
        return {name: array.tobytes() for name, array in self.shard.state()[1].items()}


@pytest.mark.parametrize("mode", ["ssp", "asp"])
def test_each_push_is_one_step(mode: str) -> None:
    cluster = Cluster(mode)
    assert cluster.push(0, 1.0, 2.0) == Outcome(Status.APPLIED, clock=1, staleness=0, lag=0)
    assert cluster.push(1, 1.0, 0.0, version=0) == Outcome(Status.APPLIED, 1, 0, lag=1)
    assert cluster.shard.parameters.tolist() == [-2.0, -2.0]
    assert cluster.shard.version == 2


def test_bsp_takes_one_joint_step_weighted_by_samples() -> None:
    cluster = Cluster("bsp", workers=3)
    cluster.push(0, 3.0, 0.0, samples=2)
    cluster.push(2, 0.0, 6.0, samples=1)
    assert cluster.shard.parameters.tolist() == [0.0, 0.0]
    assert not cluster.shard.may_proceed(0)
    assert cluster.shard.may_proceed(1)
    cluster.push(1, 0.0, 0.0, samples=3)
    np.testing.assert_allclose(cluster.shard.parameters, [-1.0, -1.0])
    assert cluster.shard.version == 1
    assert all(cluster.shard.may_proceed(worker) for worker in range(3))


def test_bsp_goes_on_when_the_missing_worker_leaves_or_turns_idle() -> None:
    for idle in (True, False):
        cluster = Cluster("bsp")
        cluster.push(0, 1.0, 1.0)
        if idle:
            cluster.members[1] = Member(1, 1, idle=True)
        else:
            del cluster.members[1]
        cluster.tell()
        cluster.shard.check_invariants()
        assert cluster.shard.parameters.tolist() == [-1.0, -1.0]
        assert cluster.shard.may_proceed(0)


def test_bsp_keeps_the_contribution_of_one_who_left_since() -> None:
    cluster = Cluster("bsp", workers=3)
    cluster.push(0, 3.0, 0.0, samples=2)
    assert cluster.progress(0).samples == 0
    del cluster.members[0]
    cluster.tell()
    assert cluster.progress(0).samples == 2, "its data is done, whatever happens"
    cluster.push(1, 0.0, 0.0, samples=2)
    assert cluster.shard.version == 0
    cluster.push(2, 0.0, 0.0, samples=2)
    np.testing.assert_allclose(cluster.shard.parameters, [-1.0, 0.0])
    assert cluster.shard.report().samples_applied == 6


def test_bsp_waits_for_everyone_who_came_in_together_after_a_quiet_time() -> None:
    cluster = Cluster("bsp", workers=1)
    cluster.push(0, 1.0, 1.0)
    cluster.members = {}
    cluster.tell()
    cluster.members = {worker: Member(worker, 1) for worker in (5, 6)}
    cluster.tell()
    cluster.push(5, 2.0, 2.0)
    assert cluster.shard.version == 1
    cluster.push(6, 0.0, 0.0)
    assert cluster.shard.parameters.tolist() == [-2.0, -2.0]


def test_bsp_counts_a_push_when_its_round_is_applied() -> None:
    cluster = Cluster("bsp")
    cluster.push(0, 1.0, 1.0, samples=4)
    assert cluster.progress(0) == Progress(0, 1)
    assert cluster.shard.report().samples_seen == 0
    cluster.push(1, 1.0, 1.0, samples=5)
    assert cluster.progress(0) == Progress(0, 1, 1, 1, samples=4, pushes_applied=1)
    assert cluster.shard.report().samples_applied == 9


def test_a_round_of_refused_pushes_changes_nothing_and_goes_on() -> None:
    cluster = Cluster("bsp")
    before = cluster.bits()
    for worker in (0, 1):
        assert cluster.push(worker, np.nan, 0.0).status is Status.REFUSED_NONFINITE
    assert cluster.bits() == before
    assert cluster.shard.version == 0
    assert cluster.shard.may_proceed(0)
    assert cluster.shard.report().pushes_refused == 2


@pytest.mark.parametrize("mode", ["bsp", "ssp", "asp"])
def test_a_retry_is_recognised_and_not_applied_again(mode: str) -> None:
    cluster = Cluster(mode, workers=1)
    push = Push(0, 1, 1, 0, samples=3, buffers=vector(5.0), counters=b"\x01")
    assert cluster.shard.push(push, vector(1.0, 1.0)).status is Status.APPLIED
    before, report = cluster.bits(), cluster.shard.report()
    again = cluster.shard.push(push, vector(1.0, 1.0))
    assert (again.status, again.clock) == (Status.DUPLICATE, 1)
    assert (cluster.bits(), cluster.shard.report()) == (before, report)


def test_a_retry_is_recognised_while_its_round_still_gathers() -> None:
    cluster = Cluster("bsp")
    push = Push(0, 1, 1, 0, samples=3)
    cluster.shard.push(push, vector(2.0, 2.0))
    assert cluster.shard.push(push, vector(2.0, 2.0)).status is Status.DUPLICATE
    cluster.push(1, 0.0, 0.0, samples=3)
    assert cluster.shard.parameters.tolist() == [-1.0, -1.0]


def test_a_new_incarnation_counts_from_one_again() -> None:
    cluster = Cluster("ssp", workers=1)
    cluster.push(0, 1.0, 1.0, samples=4)
    cluster.members[0] = Member(0, 2)
    cluster.tell()
    assert cluster.push(0, 1.0, 1.0, samples=5) == Outcome(Status.APPLIED, 2, 0, 0)
    assert cluster.progress(0, 1).samples == 4, "the departed are not forgotten at once"
    assert cluster.progress(0, 2) == Progress(0, 2, 2, 1, samples=5, pushes_applied=1)


@pytest.mark.parametrize(("worker", "incarnation"), [(7, 1), (0, 2)])
def test_only_members_are_served(worker: int, incarnation: int) -> None:
    cluster = Cluster()
    with pytest.raises(RefusedError) as refusal:
        cluster.shard.push(Push(worker, incarnation, 1, 0, 1), vector(1.0, 1.0))
    assert refusal.value.code == "unknown-worker"
    with pytest.raises(RefusedError):
        cluster.shard.may_proceed(7)
    cluster.shard.require(0, 1)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("mode", ["bsp", "ssp", "asp"])
def test_a_gradient_that_is_not_finite_leaves_every_bit(
    mode: str, kind: Any, poison: float
) -> None:
    optimizer = OptimizerSettings(kind, (GroupSettings(lr=0.1, weight_decay=0.1, momentum=0.9),))
    cluster = Cluster(mode, workers=1, optimizer=optimizer)
    cluster.push(0, 1.0, -1.0, buffers=vector(2.0), counters=b"\x05")
    before = cluster.bits()
    outcome = cluster.push(0, 1.0, poison, samples=8, buffers=vector(9.0), counters=b"\x09")
    assert (outcome.status, outcome.clock) == (Status.REFUSED_NONFINITE, 2)
    assert cluster.bits() == before
    assert (cluster.shard.version, cluster.shard.buffers_version) == (1, 1)
    report, progress = cluster.shard.report(), cluster.progress(0)
    assert (report.samples_seen, report.samples_applied, report.pushes_refused) == (9, 1, 1)
    assert (progress.samples, progress.pushes_refused_nonfinite) == (9, 1)


def test_a_push_past_the_lag_bound_is_damped() -> None:
    cluster = Cluster(lag_bound=1)
    for _ in range(3):
        cluster.push(0, 0.0, 0.0)
    outcome = cluster.push(1, 4.0, 4.0, version=0)
    assert (outcome.status, outcome.lag) == (Status.APPLIED, 3)
    assert cluster.shard.parameters.tolist() == [-2.0, -2.0]
    assert cluster.shard.report().lag_max == 3


def test_a_push_past_the_lag_bound_is_refused() -> None:
    cluster = Cluster(lag_bound=0, lag_action="refuse")
    cluster.push(0, 1.0, 1.0)
    outcome = cluster.push(1, 4.0, 4.0, version=0, buffers=vector(3.0))
    assert (outcome.status, outcome.clock) == (Status.REFUSED_LAG, 1)
    assert cluster.shard.parameters.tolist() == [-1.0, -1.0]
    assert cluster.shard.buffers.tolist() == [0.0]
    assert cluster.progress(1).pushes_refused_lag == 1


def test_parameters_of_the_future_have_no_lag() -> None:
    assert Cluster(lag_bound=0).push(0, 1.0, 1.0, version=99).lag == 0


def test_the_rate_follows_the_samples_seen_refused_ones_included() -> None:
    schedule = ScheduleSettings("step", milestones=(10, 20), gamma=0.5)
    cluster = Cluster("asp", workers=1, schedule=schedule)
    cluster.push(0, 1.0, 0.0, samples=10)
    cluster.push(0, np.nan, 0.0, samples=5)
    cluster.push(0, 1.0, 0.0, samples=5)
    cluster.push(0, 1.0, 0.0, samples=5)
    assert cluster.shard.parameters[0] == -(1.0 + 0.5 + 0.25)


def test_buffers_of_one_worker_alone_are_exactly_its_own() -> None:
    cluster = Cluster("ssp", workers=1)
    for value in (0.1, 1e-7, 3.3):
        cluster.push(0, 0.0, 0.0, samples=7, buffers=vector(value), counters=b"\x03")
        assert cluster.shard.buffers.tobytes() == vector(value).tobytes()
    assert cluster.shard.counters == b"\x03"
    assert cluster.shard.buffers_version == 3


def test_buffers_are_merged_by_the_share_of_samples() -> None:
    cluster = Cluster("asp", workers=3)
    cluster.push(0, 0.0, 0.0, samples=30, buffers=vector(4.0))
    cluster.push(1, 0.0, 0.0, samples=10, buffers=vector(8.0))
    np.testing.assert_allclose(cluster.shard.buffers, [5.0])
    cluster.members[0] = Member(0, 1, idle=True)
    cluster.tell()
    cluster.push(1, 0.0, 0.0, samples=10, buffers=vector(8.0))
    assert cluster.shard.buffers.tolist() == [8.0]


def test_buffers_of_a_round_are_its_mean() -> None:
    cluster = Cluster("bsp")
    cluster.push(1, 0.0, 0.0, samples=30, buffers=vector(4.0), counters=b"\x07")
    assert (cluster.shard.buffers.tolist(), cluster.shard.counters) == ([0.0], b"\x00")
    cluster.push(0, 0.0, 0.0, samples=10, buffers=vector(8.0), counters=b"\x02")
    np.testing.assert_allclose(cluster.shard.buffers, [5.0])
    assert (cluster.shard.counters, cluster.shard.buffers_version) == (b"\x07", 1)


def test_nothing_sent_is_nothing_changed() -> None:
    cluster = Cluster("ssp")
    cluster.push(0, 1.0, 1.0)
    assert cluster.shard.buffers_version == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"sequence": 0},
        {"samples": 0},
        {"buffers": vector(1.0, 2.0)},
        {"counters": b""},
        {"gradient": vector(1.0)},
        {"gradient": vector(1.0, 2.0, 3.0)},
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(wrong: dict[str, Any]) -> None:
    cluster = Cluster("ssp")
    before, report = cluster.bits(), cluster.shard.report()
    fields = {"sequence": 1, "samples": 1, "gradient": vector(1.0, 1.0)} | wrong
    gradient = fields.pop("gradient")
    with pytest.raises(FrameError):
        cluster.shard.push(Push(worker=0, incarnation=1, version=0, **fields), gradient)
    assert (cluster.bits(), cluster.shard.report()) == (before, report)


def test_an_older_list_of_members_is_ignored() -> None:
    cluster = Cluster()
    cluster.shard.set_members(Members(0, ()))
    cluster.shard.require(0, 1)


def test_those_who_left_together_are_all_in_the_report() -> None:
    cluster = Cluster("asp", workers=600)
    for worker in range(600):
        cluster.push(worker, 0.0, 0.0, samples=2)
    cluster.members = {}
    cluster.tell()
    assert [progress.samples for progress in cluster.shard.report().workers] == [2] * 600
    cluster.tell()
    assert len(cluster.shard.report().workers) == 256
    assert cluster.shard.report().samples_seen == 1200


@pytest.mark.parametrize("mode", ["bsp", "ssp", "asp"])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_restored_shard_goes_on_as_the_first_would_have(mode: Any, kind: Any) -> None:
    optimizer = OptimizerSettings(kind, (GroupSettings(lr=0.1, weight_decay=0.1, momentum=0.9),))
    schedule = ScheduleSettings("cosine", total=40)
    cluster = Cluster(mode, workers=1, optimizer=optimizer, schedule=schedule)
    for step in range(5):
        cluster.push(0, 1.0 + step, -step, samples=4, buffers=vector(step), counters=b"\x03")
    state, arrays = cluster.shard.state()
    state = msgspec.json.decode(msgspec.json.encode(state), type=type(state))
    arrays = {name: array.copy() for name, array in arrays.items()}
    twin = Shard.restored(cluster.shard.assignment, state, arrays)
    assert twin.report() == cluster.shard.report()
    twin.set_members(Members(0, (Member(0, 1),)))
    for shard in (cluster.shard, twin):
        retry = shard.push(Push(0, 1, 5, 4, 4), vector(5.0, 4.0))
        assert (retry.status, retry.clock) == (Status.DUPLICATE, 5)
        assert shard.push(Push(0, 1, 6, 5, 4), vector(3.0, 2.0)).clock == 6
        shard.check_invariants()
    assert twin.report() == cluster.shard.report()
    assert twin.state()[0] == cluster.shard.state()[0]
    for name, array in twin.state()[1].items():
        assert array.tobytes() == cluster.bits()[name], name


def test_an_unfinished_round_is_not_in_the_state_so_its_push_can_be_sent_again() -> None:
    cluster = Cluster("bsp")
    cluster.push(0, 2.0, 2.0)
    twin = Shard.restored(cluster.shard.assignment, *cluster.shard.state())
    twin.set_members(Members(0, (Member(0, 1), Member(1, 1))))
    assert twin.push(Push(0, 1, 1, 0, 1), vector(2.0, 2.0)).status is Status.APPLIED
    twin.push(Push(1, 1, 1, 0, 1), vector(0.0, 0.0))
    assert twin.parameters.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("name", ["parameters", "buffers", "counters", "optimizer.momentum"])
def test_a_state_that_lacks_something_or_does_not_fit_is_refused(name: str) -> None:
    optimizer = OptimizerSettings("sgd", (GroupSettings(lr=0.1, momentum=0.9),))
    shard = Cluster(optimizer=optimizer).shard
    state, arrays = shard.state()
    longer = arrays | {name: np.zeros(9, dtype=arrays[name].dtype)}
    with pytest.raises(FrameError, match=name.split(".")[-1]):
        Shard.restored(shard.assignment, state, longer)
    del arrays[name]
    with pytest.raises(FrameError, match=name):
        Shard.restored(shard.assignment, state, arrays)


def test_arrays_are_copied() -> None:
    parameters = vector(1.0, 2.0)
    shard = Shard(assignment(SyncSettings("asp")), parameters, vector(0.0), b"\x00")
    shard.set_members(Members(1, (Member(0, 1),)))
    shard.push(Push(0, 1, 1, 0, 1), vector(1.0, 1.0))
    assert parameters.tolist() == [1.0, 2.0]
