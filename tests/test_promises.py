"""A primary's idea of its set, the supervisor's, and what is on its way between them, at random:
whoever is promoted has all that was acknowledged, or it is said that it may not."""

from __future__ import annotations

import random
from typing import Any

import pytest
from replica_rig import peer

from psedge.protocol.replicas import Acks, Peer, Position, Reign
from psedge.server.peer_table import PeerTable
from psedge.supervisor.failover import Copy, View, decide
from psedge.supervisor.shard_table import Decision, ShardTable

COPIES = 4
WHY = "it fails"


class World:
    """One reign over copies 1, 2, ..., of which the first ones are backups, the others strangers.

    asked: what the primary has asked for, with the revision of the reign that it went by. Any of
    it may reach the supervisor at any time, and more than once.
    """

    def __init__(self, seed: int, acks: Acks) -> None:
        self.chance = random.Random(seed)
        self.supervisor, self.primary = ShardTable(), PeerTable()
        self.has = dict.fromkeys(range(1, COPIES), 0)
        self.stalled: set[int] = set()
        self.latest = self.told = 0
        self.asked: list[tuple[str, int, int]] = []
        self.heard: Reign
        backups = [peer(server) for server in range(1, 1 + self.chance.randrange(COPIES))]
        self.enact(self.supervisor.opened(0, 1, peer(0), backups, acks, "go"))
        self.hear()

    def enact(self, decision: Decision) -> None:
        if decision.reign is not None:
            self.supervisor.enact(decision.reign)
            self.supervisor.check_invariants()

    @property
    def reign(self) -> Any:
        return self.supervisor.reign(0)

    def hear(self) -> None:
        """The primary hears who is in the set."""
        self.heard = self.reign
        self.primary.follow(self.heard)

    def step(self) -> None:
        server = self.chance.randrange(1, COPIES)
        steps = [self.push, self.push, self.hear, *[lambda: self.replicate(server)] * 3]
        steps += [lambda: self.wish(server), self.answer] * 2
        steps += [
            lambda: self.watch(server),
            lambda: self.stalled.symmetric_difference_update({server}),
        ]
        self.chance.choice(steps)()
        self.told = max(self.told, self.primary.acknowledged(self.latest, lease_holds=True))
        self.primary.check_invariants(self.latest)

    def push(self) -> None:
        self.latest += 1

    def replicate(self, server: int) -> None:
        if server in self.stalled or server not in {each.server for each in self.primary.all}:
            return
        self.has[server] = self.chance.randint(self.has[server], self.latest)
        if self.chance.random() < 0.8:
            self.primary.heard(server, self.has[server])

    def wish(self, server: int) -> None:
        """The primary wants a peer in or out, or has changed its mind about it."""
        role = self.heard.role_of(server)
        if role == "learner" and self.chance.random() < 0.8:
            if self.primary.admit(server, self.latest):
                self.asked.append(("admit", server, self.heard.revision))
        elif role == "backup" and self.chance.random() < 0.4:
            self.primary.trust(server)
        elif peer(server) in self.primary.in_set and self.primary.doubt(server):
            self.asked.append(("drop", server, self.heard.revision))

    def answer(self) -> None:
        """The supervisor hears of a request, early or late; its answer may be lost."""
        if not self.asked:
            return
        at = max(self.chance.randrange(len(self.asked)) for _ in range(3))
        action, server, revision = self.asked[at]
        if self.chance.random() < 0.7:
            del self.asked[at]
        if not self.supervisor.is_overtaken(0, 1, revision):
            change = self.supervisor.dropped if action == "drop" else self.supervisor.admitted
            self.enact(change(0, 1, server, WHY))
        if self.chance.random() < 0.7:
            self.hear()

    def watch(self, server: int) -> None:
        """The supervisor recruits a stranger, or takes a copy for dead, which may be alive."""
        if self.reign.role_of(server) is None:
            self.enact(self.supervisor.recruited(0, peer(server), "a copy is missing"))
        elif self.chance.random() < 0.3:
            self.enact(self.supervisor.given_up(0, 1, server, WHY))

    def without_the_primary(self, sealed: set[int]) -> Decision:
        """Its process dies, and so do all that are not sealed."""
        return decide(
            View(
                self.reign,
                Copy(0, "gone", 0, stopped=True),
                tuple(self.copy(each, sealed) for each in self.reign.backups),
                evidence="server 0 is dead",
                sealing_seconds=1.0,
            )
        )

    def copy(self, backup: Peer, sealed: set[int]) -> Copy:
        server = backup.server
        if server not in sealed:
            return Copy(server, "gone", server, stopped=True)
        return Copy(server, "sealed", server, at=Position(1, self.has[server]))


@pytest.mark.parametrize("acks", ["replica", "all"])
@pytest.mark.parametrize("seed", range(30))
def test_what_was_acknowledged_is_never_lost_unsaid(acks: Acks, seed: int) -> None:
    world, certain = World(seed, acks), 0
    for _ in range(1500):
        world.step()
        dead = {server for server in world.has if world.chance.random() < 0.1}
        decision = world.without_the_primary(set(world.has) - dead)
        if decision.action == "promote" and decision.certain:
            certain += 1
            assert world.has[decision.server] >= world.told, (world.reign, world.has, world.told)
    assert certain > 25
