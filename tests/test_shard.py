"""A shard as a whole: every way a push can go, and what is promised about each."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from shard_cluster import Cluster, assignment, payload, vector

from psedge.protocol.errors import FrameError, RefusedError
from psedge.protocol.shards import (
    GroupSettings,
    Member,
    Members,
    OptimizerSettings,
    Progress,
    ScheduleSettings,
    SyncSettings,
)
from psedge.protocol.wire import Status
from psedge.server.shard import Outcome, Push, Shard


@pytest.mark.parametrize("mode", ["ssp", "asp"])
def test_each_push_is_one_step(mode: str) -> None:
    cluster = Cluster(mode)
    assert cluster.push(0, 1.0, 2.0) == Outcome(Status.APPLIED, clock=1, staleness=0, lag=0)
    assert cluster.push(1, 1.0, 0.0, version=0) == Outcome(Status.APPLIED, 1, 0, lag=1)
    assert cluster.shard.parameters.tolist() == [-2.0, -2.0]
    assert cluster.shard.version == 2


@pytest.mark.parametrize("mode", ["bsp", "ssp", "asp"])
def test_a_retry_is_recognised_and_not_applied_again(mode: str) -> None:
    cluster = Cluster(mode, workers=1)
    push = Push(0, 1, 1, 0, 3, payload(1.0, 1.0), buffers=vector(5.0), counters=b"\x01")
    assert cluster.shard.push(push).status is Status.APPLIED
    before, report = cluster.bits(), cluster.shard.report()
    again = cluster.shard.push(push)
    assert (again.status, again.clock) == (Status.DUPLICATE, 1)
    assert (cluster.bits(), cluster.shard.report()) == (before, report)


@pytest.mark.parametrize("mode", ["bsp", "ssp", "asp"])
def test_a_retry_of_a_refused_push_is_told_again_that_it_was_refused(mode: str) -> None:
    cluster = Cluster(mode, workers=1)
    poisoned = Push(0, 1, 1, 0, 3, payload(float("nan"), 1.0))
    assert cluster.shard.push(poisoned).status is Status.REFUSED_NONFINITE
    report = cluster.shard.report()
    assert cluster.shard.push(poisoned) == Outcome(Status.REFUSED_NONFINITE, 1, 0, 0)
    assert cluster.shard.report() == report
    cluster.shard.push(Push(0, 1, 2, 0, 3, payload(1.0, 1.0)))
    assert cluster.shard.push(poisoned).status is Status.DUPLICATE, "it is not the latest"


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
        cluster.shard.push(Push(worker, incarnation, 1, 0, 1, payload(1.0, 1.0)))
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


def test_momentum_adapts_to_the_workers_that_are_not_idle() -> None:
    group = GroupSettings(lr=1.0, momentum=0.9)
    cluster = Cluster(workers=4, optimizer=OptimizerSettings("sgd", (group,), True))
    cluster.members[3] = Member(3, 1, idle=True)
    cluster.tell()
    cluster.push(0, 1.0, 0.0)
    cluster.push(1, 0.0, 0.0)
    # Three workers: momentum 0.7, and three times the rate.
    np.testing.assert_allclose(cluster.shard.parameters, [-3.0 - 2.1, 0.0], rtol=1e-6)


def test_a_push_whose_gradient_was_left_out_is_refused_and_counted() -> None:
    cluster = Cluster()
    outcome = cluster.push(0, 1.0, 1.0, opened=None, samples=5)
    assert (outcome.status, outcome.clock) == (Status.REFUSED_NONFINITE, 1)
    assert cluster.progress(0).pushes_refused_nonfinite == 1


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
        {"opened": payload(1.0)},
        {"opened": payload(1.0, 2.0, 3.0)},
        {"opened": payload(1.0, 2.0, offset=12)},
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(wrong: dict[str, Any]) -> None:
    cluster = Cluster("ssp")
    before, report = cluster.bits(), cluster.shard.report()
    fields: dict[str, Any] = {"sequence": 1, "samples": 1, "opened": payload(1.0, 1.0)} | wrong
    with pytest.raises(FrameError):
        cluster.shard.push(Push(worker=0, incarnation=1, version=0, **fields))
    assert (cluster.bits(), cluster.shard.report()) == (before, report)


def test_an_older_list_of_members_is_ignored() -> None:
    cluster = Cluster()
    cluster.shard.set_members(Members(0, ()))
    cluster.shard.require(0, 1)


def test_a_list_of_members_counts_only_if_it_says_something_new() -> None:
    cluster = Cluster("asp", workers=2)
    everyone = (Member(0, 1), Member(1, 1))
    taken = cluster.shard.taken
    for known in (
        Members(1, everyone),
        Members(1, everyone[::-1]),
        Members(1, everyone[:1], since=0),
        Members(1, (), since=0, gone=(5,)),
        Members(0, ()),
        Members(7, (), since=6),
    ):
        assert not cluster.shard.set_members(known), known
    assert (cluster.shard.taken, cluster.shard.members) == (taken, everyone)
    for revision, news in enumerate(
        (
            Members(1, everyone[:1]),
            Members(1, everyone),
            Members(1, (), since=1, gone=(1,)),
            Members(1, (Member(0, 1, idle=True),), since=1),
            Members(2, (Member(0, 1, idle=True),)),
        )
    ):
        assert cluster.shard.set_members(news), news
        assert cluster.shard.taken == taken + 1 + revision


def test_progress_tells_the_staleness_of_the_latest_push() -> None:
    cluster = Cluster("ssp", staleness_bound=3)
    for _ in range(3):
        cluster.push(0, 1.0, 1.0)
    assert cluster.progress(0).staleness == 2
    for _ in range(3):
        cluster.push(1, 1.0, 1.0)
    cluster.push(0, 1.0, 1.0)
    assert (cluster.progress(0).staleness, cluster.progress(0).staleness_max) == (0, 2)


def test_every_update_that_is_not_joint_has_one_contributor() -> None:
    cluster = Cluster("asp")
    assert cluster.shard.report().contributors == 0
    cluster.push(0, 1.0, 1.0)
    cluster.push(1, 1.0, 1.0)
    assert cluster.shard.report().contributors == 1


def test_a_digest_sees_every_bit_and_every_count() -> None:
    digests = set()
    for change in ("", "parameters", "buffers", "counters", "momentum", "version", "sample", "who"):
        optimizer = OptimizerSettings("sgd", (GroupSettings(lr=0.1, momentum=0.9),))
        cluster = Cluster("asp", optimizer=optimizer)
        samples, worker = 3 + (change == "sample"), int(change == "who")
        cluster.push(worker, 1.0, 2.0, samples=samples, buffers=vector(1.0), counters=b"\x01")
        shard = cluster.shard
        if change in ("parameters", "buffers"):
            vector_of = getattr(shard, change)
            vector_of[0] = np.nextafter(vector_of[0], np.float32(9))
        elif change == "counters":
            shard.counters = b"\x03"
        elif change == "momentum":
            shard.arrays()["optimizer.momentum"][1] = 0.0
        elif change == "version":
            shard.version += 1
        assert shard.digest() == shard.digest()
        digests.add(shard.digest())
    assert len(digests) == 8


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
        retry = shard.push(Push(0, 1, 5, 4, 4, payload(5.0, 4.0)))
        assert (retry.status, retry.clock) == (Status.DUPLICATE, 5)
        assert shard.push(Push(0, 1, 6, 5, 4, payload(3.0, 2.0))).clock == 6
        shard.check_invariants()
    assert twin.report() == cluster.shard.report()
    assert twin.state()[0] == cluster.shard.state()[0]
    for name, array in twin.state()[1].items():
        assert array.tobytes() == cluster.bits()[name], name


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
    shard.push(Push(0, 1, 1, 0, 1, payload(1.0, 1.0)))
    assert parameters.tolist() == [1.0, 2.0]
