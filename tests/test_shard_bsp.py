"""Joint steps: when a round of `bsp` is complete, what is in it, and what is not."""

from __future__ import annotations

import numpy as np
from shard_cluster import Cluster, payload, vector

from psedge.protocol.shards import Member, Members, Progress
from psedge.protocol.wire import Status
from psedge.server.shard import Push, Shard


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


def test_bsp_stays_joint_after_one_that_ignored_the_gate_was_left_alone() -> None:
    cluster = Cluster("bsp")
    for _ in range(3):
        cluster.push(0, 1.0, 1.0)
    assert cluster.shard.version == 0
    cluster.members = {0: Member(0, 1), 2: Member(2, 1)}
    cluster.tell()
    assert cluster.shard.parameters.tolist() == [-1.0, -1.0]
    cluster.push(2, 2.0, 2.0)
    assert cluster.shard.version == 1, "the round waits for worker 0"
    cluster.push(0, 0.0, 0.0)
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


def test_a_retry_is_recognised_while_its_round_still_gathers() -> None:
    cluster = Cluster("bsp")
    push = Push(0, 1, 1, 0, 3, payload(2.0, 2.0))
    cluster.shard.push(push)
    assert cluster.shard.push(push).status is Status.DUPLICATE
    cluster.push(1, 0.0, 0.0, samples=3)
    assert cluster.shard.parameters.tolist() == [-1.0, -1.0]


def test_buffers_of_a_round_are_its_mean() -> None:
    cluster = Cluster("bsp")
    cluster.push(1, 0.0, 0.0, samples=30, buffers=vector(4.0), counters=b"\x07")
    assert (cluster.shard.buffers.tolist(), cluster.shard.counters) == ([0.0], b"\x00")
    cluster.push(0, 0.0, 0.0, samples=10, buffers=vector(8.0), counters=b"\x02")
    np.testing.assert_allclose(cluster.shard.buffers, [5.0])
    assert (cluster.shard.counters, cluster.shard.buffers_version) == (b"\x07", 1)


def test_an_unfinished_round_is_not_in_the_state_so_its_push_can_be_sent_again() -> None:
    cluster = Cluster("bsp")
    cluster.push(0, 2.0, 2.0)
    twin = Shard.restored(cluster.shard.assignment, *cluster.shard.state())
    twin.set_members(Members(0, (Member(0, 1), Member(1, 1))))
    assert twin.push(Push(0, 1, 1, 0, 1, payload(2.0, 2.0))).status is Status.APPLIED
    twin.push(Push(1, 1, 1, 0, 1, payload(0.0, 0.0)))
    assert twin.parameters.tolist() == [-1.0, -1.0]


def test_a_joint_step_counts_those_whose_gradients_are_in_it() -> None:
    cluster = Cluster("bsp", workers=4)
    assert cluster.shard.summary().contributors == 0
    for worker in (1, 2, 3):
        cluster.push(worker, np.nan, 0.0)
    cluster.push(0, 1.0, 1.0)
    assert cluster.shard.version == 1
    assert cluster.shard.summary().contributors == 1, "not an average over 4"
    for worker in range(4):
        cluster.push(worker, 1.0, 1.0)
    assert cluster.shard.news(0)[0].contributors == 4
    for worker in range(4):
        cluster.push(worker, np.nan, 1.0)
    assert cluster.shard.report().contributors == 4, "there was no update since"


def test_a_leaver_counts_among_the_contributors_of_the_round_that_it_left() -> None:
    cluster = Cluster("bsp", workers=3)
    cluster.push(0, 1.0, 1.0)
    del cluster.members[0]
    cluster.tell()
    cluster.push(1, 1.0, 1.0)
    cluster.push(2, np.nan, 1.0)
    assert (cluster.shard.version, cluster.shard.summary().contributors) == (1, 2)


def test_one_who_contributes_twice_to_a_round_counts_once() -> None:
    cluster = Cluster("bsp")
    for _ in range(3):
        cluster.push(0, 1.0, 1.0)
    cluster.push(1, 1.0, 1.0)
    del cluster.members[1]
    cluster.tell()
    assert (cluster.shard.version, cluster.shard.summary().contributors) == (1, 2)


def test_an_image_leaves_out_a_round_from_its_first_push_on() -> None:
    cluster = Cluster("bsp", workers=4)
    began = cluster.shard.image()
    assert began[2] == 0
    for left_out, worker in ((1, 0), (2, 2)):
        cluster.push(worker, 1.0, 1.0)
        assert cluster.shard.image()[::2] == (began[0], left_out)
    cluster.members[1] = Member(1, 7)
    cluster.tell()
    assert cluster.shard.image()[::2] == (began[0], 3)
    for worker in (1, 3):
        cluster.push(worker, 1.0, 1.0)
    state, _, left_out = cluster.shard.image()
    assert (state.version, left_out) == (1, 0)
