"""What servers and supervisor say to each other about the copies of a shard.

A *reign* says who is a shard's primary in a term and who its backups are. The supervisor writes
reigns, each of them to its store before anybody hears of it; servers follow them. Terms only rise.
"""

from __future__ import annotations

from typing import Literal

import msgspec

#: When a push is acknowledged: once it is in the log of the primary, of one backup too, of all.
Acks = Literal["primary", "replica", "all"]

#: `backup`: in the set. `learner`: a copy in the making, nobody counts on it. `sealed`: takes part
#: in no term below the promised one, and waits to hear who reigns. `recovered`: read from disk.
Role = Literal["primary", "backup", "learner", "sealed", "recovered"]


class Peer(msgspec.Struct, frozen=True):
    """A server process; its number is of one incarnation. url: as other servers reach it."""

    server: int
    url: str


class Reign(msgspec.Struct, frozen=True):
    """Who holds a shard.

    revision: counts all reigns of this shard, changes of the set within a term included.
    backups: in the set: may be promoted. learners: the primary brings them up to date.
    doubted: numbers of backups that the supervisor takes for dead. They are in the set until the
    primary asks for their drop, as what it has acknowledged may be nowhere else so far.
    """

    shard: int
    term: int
    revision: int
    primary: Peer
    backups: tuple[Peer, ...] = ()
    learners: tuple[Peer, ...] = ()
    acks: Acks = "replica"
    doubted: tuple[int, ...] = ()

    def role_of(self, server: int) -> Literal["primary", "backup", "learner"] | None:
        """None: it holds no copy."""
        if server == self.primary.server:
            return "primary"
        if any(peer.server == server for peer in self.backups):
            return "backup"
        return "learner" if any(peer.server == server for peer in self.learners) else None


class Position(msgspec.Struct, frozen=True, order=True):
    """A place in a log; the order is that of how much a replica has seen.

    term: of the entry at `index`; both are 0 before the first entry.
    """

    term: int = 0
    index: int = 0


class ReplicaState(msgspec.Struct, frozen=True):
    """A server's copy of a shard. term: the highest it has seen or promised.

    revision: of the reign it follows, -1 before the first. at: its latest entry.
    acknowledged: primary only: index up to which workers may be told.
    lagging: primary only: of each peer, server number and entries that it lacks.
    server: who says so, -1 before it has a number: at the address of a dead process another may
    answer. damage: why the log that it was read from breaks off early, in words; empty if it does
    not.
    """

    shard: int
    role: Role
    term: int
    revision: int
    at: Position = Position()
    acknowledged: int = 0
    lagging: tuple[tuple[int, int], ...] = ()
    server: int = -1
    damage: str = ""


class Seal(msgspec.Struct, frozen=True):
    """Supervisor to a copy: take part in no term below this one; the reply is a ReplicaState."""

    shard: int
    term: int


class Append(msgspec.Struct, frozen=True):
    """Head of a message with entries, primary to backup. before: the entry before the first."""

    shard: int
    term: int
    before: Position


class Appended(msgspec.Struct, frozen=True):
    """at: the backup's latest entry afterwards; it is in its log, on disk if `log = "always"`.

    outcome: `gap`: it lacks what comes before. `differs`: its log or its digest is another than
    the primary's, so it needs a snapshot. A message of an old term is refused (`stale-term`).
    server: who answers, as in `ReplicaState`.
    """

    at: Position
    outcome: Literal["appended", "gap", "differs"] = "appended"
    server: int = -1


class SetChange(msgspec.Struct, frozen=True):
    """Primary to supervisor: drop a peer, or admit a learner to the set; reply: the Reign.

    revision: of the reign that the primary goes by. In any other one the request is not carried
    out: it has been overtaken, and the reply says by what.
    """

    shard: int
    term: int
    revision: int
    server: int
    action: Literal["drop", "admit"]
    why: str


REPLICA_APPEND = "/v1/replica/append"
REPLICA_INSTALL = "/v1/replica/install"
REPLICA_SEAL = "/v1/replica/seal"
REPLICA_REIGN = "/v1/replica/reign"
SET_CHANGE = "/v1/shard/set"
