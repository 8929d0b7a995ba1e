"""Shards under many workers: equality with one large batch, and invariants of random schedules."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shard_cluster import payload

from psedge.protocol.layout import Layout, TensorSpec, cut
from psedge.protocol.shards import (
    Assignment,
    GroupSettings,
    Member,
    Members,
    OptimizerSettings,
    ScheduleSettings,
    Segment,
    SyncSettings,
)
from psedge.protocol.wire import Status
from psedge.server.optimizer_settings import segments_of
from psedge.server.shard import Push, Shard

#: Unequal batches of three workers; together they are the large batch.
BATCHES = (5, 16, 3)
STEPS = 50


def make_model() -> torch.nn.Sequential:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(7, 11), torch.nn.Tanh(), torch.nn.Linear(11, 3))


def flat(tensors: list[torch.Tensor]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).numpy().copy()


def layout_of(model: torch.nn.Module) -> Layout:
    specs, offset = [], 0
    for name, tensor in model.named_parameters():
        specs.append(TensorSpec(name, tuple(tensor.shape), "float32", "parameter", offset))
        offset += tensor.numel()
    return Layout(tuple(specs))


def make_shards(model: torch.nn.Module, sync: SyncSettings) -> list[Shard]:
    layout, vector = layout_of(model), flat(list(model.parameters()))
    groups = (
        GroupSettings(lr=0.2, momentum=0.9, nesterov=True, weight_decay=0.01),
        GroupSettings(lr=0.1, momentum=0.9, nesterov=True),
    )
    members = Members(1, tuple(Member(worker, 1) for worker in range(len(BATCHES))))
    shards = []
    for index, (start, stop) in enumerate(cut(len(vector), 3)):
        assignment = Assignment(
            shard=index,
            start=start,
            stop=stop,
            buffers_start=0,
            buffers_stop=0,
            counters_bytes=0,
            segments=segments_of(layout, (0, 1, 0, 1), start, stop),
            optimizer=OptimizerSettings("sgd", groups),
            schedule=ScheduleSettings("cosine", total=STEPS * sum(BATCHES)),
            sync=sync,
        )
        shards.append(Shard(assignment, vector[start:stop], np.zeros(0, np.float32), b""))
        shards[-1].set_members(members)
    return shards


def test_bsp_equals_one_process_with_the_large_batch_step_by_step() -> None:
    model = make_model()
    weights, biases = list(model.parameters())[::2], list(model.parameters())[1::2]
    optimizer = torch.optim.SGD(
        [
            {"params": weights, "lr": 0.2, "weight_decay": 0.01},
            {"params": biases, "lr": 0.1, "weight_decay": 0.0},
        ],
        momentum=0.9,
        nesterov=True,
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    replica = make_model()
    shards = make_shards(replica, SyncSettings("bsp"))
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        x = torch.randn(sum(BATCHES), 7, generator=generator)
        y = torch.randint(3, (sum(BATCHES),), generator=generator)

        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()

        current = torch.from_numpy(np.concatenate([shard.parameters for shard in shards]))
        torch.nn.utils.vector_to_parameters(current, replica.parameters())
        parts = list(zip(x.split(BATCHES), y.split(BATCHES), strict=True))
        for worker in np.roll(range(len(BATCHES)), step).tolist():
            loss = torch.nn.functional.cross_entropy(replica(parts[worker][0]), parts[worker][1])
            gradient = flat(list(torch.autograd.grad(loss, list(replica.parameters()))))
            for shard in shards:
                start = shard.assignment.start
                part = payload(*gradient[start : shard.assignment.stop], offset=start)
                push = Push(worker, 1, step + 1, shard.version, BATCHES[worker], part)
                assert shard.push(push).status is Status.APPLIED
        np.testing.assert_allclose(
            np.concatenate([shard.parameters for shard in shards]),
            flat(list(model.parameters())),
            rtol=1e-4,
            atol=1e-5,
        )
    assert [shard.version for shard in shards] == [STEPS] * 3


@dataclasses.dataclass
class Simulated:
    """A worker that keeps to the protocol: it pushes only when the gate has let it pass."""

    incarnation: int
    idle: bool = False
    sequence: int = 0
    samples: int = 0
    latest: Push | None = None


class World:
    """One shard and up to five workers that come, go, pause, push, and send again."""

    def __init__(self, mode: Any, bound: int) -> None:
        self.bound = {"bsp": 0, "ssp": bound}.get(mode)
        assignment = Assignment(
            0, 0, 1, 0, 1, 1,
            segments=(Segment(0, 1, 0),),
            optimizer=OptimizerSettings("sgd", (GroupSettings(lr=0.01, momentum=0.5),)),
            schedule=ScheduleSettings(),
            sync=SyncSettings(mode, staleness_bound=bound),
        )  # fmt: skip
        self.shard = Shard(assignment, np.zeros(1, np.float32), np.zeros(1, np.float32), b"\x00")
        self.workers: dict[int, Simulated] = {}
        self.revision = 0
        #: Samples sent under each (worker, incarnation), for ever.
        self.sent: Counter[tuple[int, int]] = Counter()

    def move(self, what: str, worker: int) -> None:
        one = self.workers.get(worker)
        if what == "push" and one and not one.idle:
            self.push(worker, one, gradient=0.5 * worker)
        elif what == "poison" and one and not one.idle:
            self.push(worker, one, gradient=float("nan"))
        elif what == "retry" and one and one.latest:
            self.retry(one.latest)
        elif (what, one is None) in (("join", True), ("rejoin", False)):
            self.workers[worker] = Simulated(self.revision)
        elif what == "leave" and one:
            del self.workers[worker]
        elif what in ("idle", "wake") and one:
            one.idle = what == "idle"
        if what in ("join", "rejoin", "leave", "idle", "wake"):
            self.tell()
        self.shard.check_invariants()

    def tell(self) -> None:
        self.revision += 1
        members = tuple(
            Member(worker, one.incarnation, one.idle) for worker, one in self.workers.items()
        )
        self.shard.set_members(Members(self.revision, members))

    def push(self, worker: int, one: Simulated, gradient: float) -> None:
        if not self.shard.may_proceed(worker):
            return
        one.sequence += 1
        samples = worker + one.sequence
        buffers = np.array([gradient], dtype=np.float32)
        one.latest = Push(
            worker,
            one.incarnation,
            one.sequence,
            self.shard.version,
            samples,
            payload(gradient, offset=0),
            buffers,
            b"\x01",
        )
        self.sent[worker, one.incarnation] += samples
        outcome = self.shard.push(one.latest)
        finite = gradient == gradient
        assert outcome.status is (Status.APPLIED if finite else Status.REFUSED_NONFINITE)
        assert self.bound is None or outcome.staleness <= self.bound

    def retry(self, latest: Push) -> None:
        before = self.shard.parameters.tobytes(), self.shard.buffers.tobytes(), self.shard.report()
        again = msgspec.structs.replace(latest, opened=payload(100.0, offset=0))
        outcome = self.shard.push(again)
        assert latest.opened is not None
        finite = latest.opened.check(1.0e18)
        assert outcome.status is (Status.DUPLICATE if finite else Status.REFUSED_NONFINITE)
        after = self.shard.parameters.tobytes(), self.shard.buffers.tobytes(), self.shard.report()
        assert before == after

    def active(self) -> list[int]:
        return [worker for worker, one in self.workers.items() if not one.idle]


WHAT = ["push"] * 8 + ["poison", "retry", "join", "join", "rejoin", "leave", "idle", "wake"]
MOVES = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 4)), max_size=150)


@pytest.mark.parametrize("mode", ["bsp", "ssp", "asp"])
@given(moves=MOVES, bound=st.integers(0, 3))
def test_random_schedules(mode: str, moves: list[tuple[str, int]], bound: int) -> None:
    world = World(mode, bound)
    for what, worker in moves:
        world.move(what, worker)
        active = world.active()
        assert not active or any(world.shard.may_proceed(one) for one in active), "deadlock"
    # Once all have left, nothing is pending: what was sent is counted, exactly once.
    world.workers.clear()
    world.tell()
    world.shard.check_invariants()
    report = world.shard.report()
    counted = {(one.worker, one.incarnation): one.samples for one in report.workers if one.samples}
    assert counted == dict(world.sent)
    assert report.samples_seen == sum(world.sent.values())
    assert np.isfinite(world.shard.parameters).all()
    assert np.isfinite(world.shard.buffers).all()


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(-8, 8, width=32)), min_size=1, max_size=6))
def test_a_joint_step_is_the_mean_over_samples_in_any_order(
    pushes: list[tuple[int, float]],
) -> None:
    world = World("bsp", 0)
    for worker in range(len(pushes)):
        world.workers[worker] = Simulated(1)
    world.tell()
    for worker, (samples, value) in reversed(list(enumerate(pushes))):
        world.shard.push(Push(worker, 1, 1, 0, samples, payload(value, offset=0)))
    total = sum(samples for samples, _ in pushes)
    mean = sum(samples * value for samples, value in pushes) / total
    np.testing.assert_allclose(world.shard.parameters, [-0.01 * mean], rtol=1e-4, atol=1e-6)
    assert world.shard.version == 1


def test_cuts_of_the_shards_fall_inside_of_tensors() -> None:
    model = make_model()
    edges = {tensor.offset for tensor in layout_of(model).tensors}
    shards = make_shards(model, SyncSettings("bsp"))
    starts = {shard.assignment.start for shard in shards} - {0}
    assert starts.isdisjoint(edges)
    assert all(a.assignment.stop == b.assignment.start for a, b in pairwise(shards))
