"""Copies of a shard under random schedules: equal where they are at one place, and nothing that
was acknowledged is ever lost or applied twice.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from replica_rig import Copies, assert_equal, delivered, refusal_of, twin_of
from shard_cluster import vector

from psedge.server.replica import Replica

#: By name: the mode, how many workers may come, the further settings. Of 11 pushes in a round not
#: all payloads are kept.
MODES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "bsp": ("bsp", 4, {}),
    "bsp of many": ("bsp", 11, {}),
    "ssp": ("ssp", 4, {"staleness_bound": 2, "lag_bound": 2, "lag_action": "refuse"}),
    "asp": ("asp", 4, {"lag_bound": 3, "weight_prediction": True}),
}
MOVES = ["push"] * 12 + ["nan", "left-out", "retry", "retry", "stale"] * 2 + ["send"] * 8 + [
    "lost", "join", "leave", "idle", "image", "twin", "fail-over", "zombie",
    "newcomer", "newcomer",
]  # fmt: skip


class Walk:
    """One random schedule. twin: a copy that was made of an image a while ago."""

    def __init__(self, seed: int, name: str, servers: int, acks: str) -> None:
        self.chance = random.Random(f"{seed} {name} {servers} {acks}")
        mode, self.workers, settings = MODES[name]
        self.copies = Copies(mode, servers, acks, **settings)
        self.zombies: list[int] = []
        self.twin: Replica | None = None
        for worker in range(self.workers - 1):
            self.copies.join(worker)

    def step(self) -> None:
        what = self.chance.choice(MOVES)
        worker = self.chance.randrange(self.workers)
        before = self.copies.primary
        if what in ("push", "nan", "left-out", "stale"):
            self.push(what, worker)
        elif what == "retry":
            self.retry(worker)
        elif what in ("join", "leave", "idle"):
            self.change_members(what, worker)
        elif what in ("send", "lost"):
            self.send(lost=what == "lost")
        else:
            self.change_copies(what)
        self.follow_twin(before)
        self.copies.acknowledge()
        self.copies.check()
        self.copies.check_acknowledged()

    def push(self, what: str, worker: int) -> None:
        one = self.copies.workers.get(worker)
        if one is None or one.idle or one.waits_for is not None:
            return
        if not self.copies.primary.shard.may_proceed(worker):
            return
        gradient = float("nan") if what == "nan" else self.chance.uniform(-3.0, 3.0)
        extra: dict[str, Any] = {}
        if self.chance.random() < 0.5:
            extra = {"buffers": vector(self.chance.random()), "counters": b"\x07"}
        lag = 9 if what == "stale" else self.chance.randrange(3)
        self.copies.push(worker, gradient, lag, left_out=what == "left-out", **extra)

    def retry(self, worker: int) -> None:
        one = self.copies.workers.get(worker)
        if one is not None and one.sequence:
            at = self.copies.primary.at
            self.copies.send_push(worker)
            assert self.copies.primary.at == at, "a retry is no entry"

    def change_members(self, what: str, worker: int) -> None:
        copies = self.copies
        if what == "join":
            copies.join(worker)
            return
        one = copies.workers.get(worker)
        if one is None or one.waits_for is not None:
            return
        copies.revision += 1
        if what == "leave":
            del copies.workers[worker]
        else:
            one.idle = not one.idle
        copies.tell()

    def send(self, lost: bool) -> None:
        peers = [*self.copies.backups, *self.copies.learners]
        if peers:
            self.copies.send(self.chance.choice(peers), self.chance.choice([1, 300, 10**6]), lost)

    def change_copies(self, what: str) -> None:
        copies = self.copies
        if what in ("image", "twin") and refusal_of(copies.primary.order) == "not-ready":
            assert not copies.primary.keeps_entries or copies.primary.shard.left_out
        elif what == "image":
            twin = twin_of(copies.primary)
            assert_equal(twin, copies.primary)
        elif what == "twin" and self.twin is None:
            self.twin = twin_of(copies.primary)
        elif what == "fail-over" and copies.backups:
            self.zombies.append(copies.fail_over())
            self.twin = None
        elif what == "zombie" and self.zombies:
            copies.change(learners=(*copies.learners, self.zombies.pop()))
        elif what == "newcomer" and copies.learners:
            copies.admit(self.chance.choice(copies.learners))

    def follow_twin(self, primary: Replica) -> None:
        """The twin gets what the primary has got, and is then the same."""
        if self.twin is None or primary is not self.copies.primary:
            return
        entries = primary.entries_after(self.twin.at, 10**9)
        if entries is None:
            # Everybody else has them, so they are no longer in memory.
            self.twin = None
            return
        for entry in delivered(entries):
            self.twin.replay(entry)
        assert_equal(self.twin, primary)
        if len(entries) and self.chance.random() < 0.1:
            self.twin = None

    def finish(self) -> None:
        """Everything comes through, and is counted exactly once."""
        copies = self.copies
        copies.revision += 1
        for one in copies.workers.values():
            one.idle = True
        copies.tell()
        copies.send_all()
        copies.acknowledge()
        assert all(one.waits_for is None for one in copies.workers.values())
        copies.check()
        for server in (*copies.backups, *copies.learners):
            assert copies.replicas[server].at == copies.primary.at
        progress = {
            (one.worker, one.incarnation): (one.sequence, one.samples)
            for one in copies.primary.shard.report().workers
        }
        for worker, one in copies.workers.items():
            assert progress[worker, one.incarnation] == (one.sequence, one.samples)


@pytest.mark.parametrize("acks", ["replica", "all"])
@pytest.mark.parametrize("servers", [2, 3])
@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("seed", range(4))
def test_copies_stay_equal_and_what_is_acknowledged_stays(
    seed: int, name: str, servers: int, acks: str
) -> None:
    walk = Walk(seed, name, servers, acks)
    for _ in range(250):
        walk.step()
    walk.finish()
