"""A server's copy of a shard, and its place in the shard's log.

Whatever changes a shard is an entry of its log. The primary applies, appends and hands on; backups
apply the same entries in the same order through the same `Shard`, and so does recovery from disk.
Applying reads nothing but the entry and the shard. What has been applied is never taken back: a
copy whose log went another way (`log_matching.py`) is replaced by an image of the primary's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from numpy.typing import NDArray

from psedge.compression.coder import Coders
from psedge.protocol.errors import DamagedError, RefusedError
from psedge.protocol.log_entry import DIGEST_BYTES, Entry, EntryKind
from psedge.protocol.ports import Buffer
from psedge.protocol.replicas import Append, Appended, Peer, Position, Reign, ReplicaState, Role
from psedge.protocol.shards import Members, ShardOrder
from psedge.server.log_apply import applied, shard_of
from psedge.server.log_matching import KEPT_TERMS, check_sequence, term_at, with_term
from psedge.server.log_tail import LogTail
from psedge.server.peer_table import NOTHING, PeerTable
from psedge.server.push import Outcome, Push
from psedge.server.shard import Shard

__all__ = ["Replica", "applied", "replica_of", "shard_of"]

#: Where a log begins.
_START = Position()
#: Least that the tail in memory may hold before copies that lag behind it need an image.
TAIL_LIMIT_BYTES = 64 * 10**6


class Replica:
    """One shard's copy on one server.

    role: see `protocol/replicas.py`. term: the highest it has seen or promised. reign: whom it
    follows, None before the first. terms: (term, index of its first entry), oldest first.
    lease_until: until when a primary may acknowledge what only some of its backups have; the shell
    sets it. keeps: whether a log on disk wants every entry.
    differs: what it has computed is not what the primary has; only an image mends that.
    """

    def __init__(
        self,
        shard: Shard,
        server: int,
        *,
        at: Position = _START,
        terms: tuple[tuple[int, int], ...] = (),
        role: Role = "learner",
        keeps: bool = True,
        tail_limit_bytes: int | None = None,
    ) -> None:
        """at, terms: of the log that `shard` is the outcome of.

        tail_limit_bytes: of entries in memory, those of an unfinished round of `bsp` aside.
        """
        self.shard = shard
        self.server = server
        self.role: Role = role
        self.reign: Reign | None = None
        self.terms = terms if terms or not at.index else ((at.term, at.index),)
        self.term = at.term
        self.lease_until = float("-inf")
        self.keeps = keeps
        self.differs = False
        self.tail_limit_bytes = tail_limit_bytes or max(
            TAIL_LIMIT_BYTES, 4 * shard.parameters.nbytes
        )
        self._index = at.index
        self._own_log = at.index
        #: Up to where an image of the shard goes.
        self._image_index = at.index
        self._digest_index = at.index
        self._tail = LogTail(at.index + 1)
        self._peers = PeerTable()
        self._coders = Coders(shard.piece)

    @property
    def at(self) -> Position:
        """The latest entry."""
        return Position(self._term_at(self._index) or 0, self._index)

    @property
    def own_log(self) -> int:
        """The latest entry that this server's own log has, as the setting `log` means it."""
        waits = self.keeps and self.shard.assignment.log.sync != "off"
        return self._own_log if waits else self._index

    @own_log.setter
    def own_log(self, index: int) -> None:
        self._own_log = max(self._own_log, min(index, self._index))

    @property
    def keeps_entries(self) -> bool:
        """Whether anybody wants what is pushed; otherwise it is only counted."""
        return self.keeps or bool(self._peers.all)

    def seal(self, term: int) -> None:
        """Take part in no term below this one. Raises RefusedError `stale-term` for an old one."""
        self._require_term(term)
        if term > self.term:
            self.term = term
            self._step_down("sealed")

    def follow(self, reign: Reign) -> list[Entry]:
        """Take the role that a reign gives; `sealed` if it gives none.

        Returns the entry that begins the term, if it made this the primary, for the log on disk.
        Raises RefusedError `stale-term` for an old one.
        """
        self._require_term(reign.term)
        known = self.reign
        if known is not None and (reign.term, reign.revision) <= (known.term, known.revision):
            return []
        self.term = reign.term
        self.reign = reign
        role = reign.role_of(self.server) or "sealed"
        if role != "primary":
            self._step_down(role)
            return []
        self.role = role
        # Whatever it has computed, the others go by it from now on.
        self.differs = False
        self._peers.follow(reign)
        self._trim()
        began = bool(self.terms) and self.terms[-1][0] == reign.term
        return [] if began else self._write(EntryKind.TERM, ())

    def require_primary(self, term: int) -> None:
        """Raise RefusedError `not-primary` unless this is the primary in `term`."""
        if self.role != "primary" or term != self.term:
            raise RefusedError(
                "not-primary",
                f"this server is {self.role} of shard {self.shard.assignment.shard} in term "
                f"{self.term}, not its primary in term {term}: ask the supervisor who is",
            )

    def push(self, push: Push, frame: Sequence[Buffer]) -> tuple[Outcome, int, list[Entry]]:
        """As `Shard.push`, on the primary.

        frame: the parts that the push arrived in; they must not change later if `keeps_entries`.
        Returns also the index that has to be acknowledged before the worker is told, and what the
        log on disk is to get.
        """
        before = self.shard.taken
        outcome = self.shard.push(push)
        if self.shard.taken == before:
            return outcome, self._index, []
        entries = self._write(EntryKind.PUSH, frame)
        return outcome, self._index, entries + self._digest_if_due()

    def set_members(self, members: Members) -> list[Entry]:
        """As `Shard.set_members`, on the primary. Returns what the log on disk is to get."""
        before = self.shard.taken
        self.shard.set_members(members)
        if self.shard.taken == before:
            return []
        body = msgspec.json.encode(members) if self.keeps_entries else b""
        return self._write(EntryKind.MEMBERS, (body,)) + self._digest_if_due()

    def append(self, message: Append, entries: Iterable[Entry]) -> tuple[Appended, list[Entry]]:
        """A message of the primary: its answer, and the entries that were applied just now.

        What this copy has already is passed over. Raises RefusedError: `stale-term`; `not-ready`
        for a copy from disk that is in no reign, `conflict` for a primary. Raises FrameError for
        entries that do not belong together; then nothing is changed.
        """
        given = list(entries)
        check_sequence(message, given)
        self._require_sender(message.term)
        if message.before.index > self._index and not self.differs:
            return Appended(self.at, "gap"), []
        places = [message.before, *(Position(one.term, one.index) for one in given)]
        if self.differs or not self._agrees(places):
            return Appended(self._known_at(), "differs"), []
        applied_now: list[Entry] = []
        for entry in given[self._index - message.before.index :]:
            if not applied(entry, self.shard, self._coders):
                self.differs = True
                return Appended(self._known_at(), "differs"), applied_now
            self._take(entry)
            applied_now.append(entry)
        return Appended(self.at), applied_now

    def replay(self, entry: Entry) -> None:
        """Apply the next entry of the log that this copy is read from.

        Raises DamagedError if it does not follow or does not lead where it led before.
        """
        follows = entry.index == self._index + 1 and entry.term >= self.at.term
        if not follows or not applied(entry, self.shard, self._coders):
            raise DamagedError(
                f"entry {entry.index} of the log of shard {self.shard.assignment.shard} does not "
                f"continue what is before it (up to entry {self._index})"
            )
        self._take(entry)
        self.term = max(self.term, entry.term)
        self._own_log = self._index

    def entries_after(self, at: Position, limit_bytes: int) -> list[Entry] | None:
        """What a copy at `at` is to get next: one entry or as many as fit; [] if it lacks nothing.

        None: its log went another way, or it is behind what is in memory, so it needs `order()`.
        """
        if at.index > self._index or self._term_at(at.index) != at.term:
            return None
        return self._tail.after(at.index, limit_bytes)

    def heard(self, server: int, at: Position) -> None:
        """A peer has said what its latest entry is."""
        agrees = at.index <= self._index and self._term_at(at.index) == at.term
        self._peers.heard(server, at.index if agrees else NOTHING)
        self._trim()

    def in_set(self) -> tuple[Peer, ...]:
        """The backups on which acknowledgements depend, those being admitted included."""
        return self._peers.in_set

    def peers(self) -> tuple[Peer, ...]:
        """All whom the primary brings up to date."""
        return self._peers.all

    def lacks(self, server: int) -> int:
        """Entries that a peer does not have, as far as this is known."""
        return self._index - self._peers.has(server)

    def admitting(self, server: int) -> bool:
        """A learner counts as in the set from now on. True: the supervisor may be asked, since it
        has all that was acknowledged before it counted, so that it can be promoted.
        """
        return self._peers.admit(server, self._index)

    @property
    def peer_table(self) -> PeerTable:
        """What a primary knows of its peers; empty elsewhere."""
        return self._peers

    def acknowledged(self, now: float) -> int:
        """Index of the latest acknowledged entry; see `peer_table.py`. 0 if this is no primary."""
        if self.role != "primary":
            return 0
        return self._peers.acknowledged(self.own_log, lease_holds=now <= self.lease_until)

    def order(self) -> tuple[ShardOrder, dict[str, NDArray[Any]]]:
        """An image for another copy or for the disk; `entries_after(order.at)` leads on from it.

        The arrays are the live ones: copy them before awaiting anything. Raises RefusedError
        `not-ready` while the image lacks an unfinished round of `bsp` whose entries were not kept,
        since nobody wanted them; that ends with the round.
        """
        state, arrays, left_out = self.shard.image()
        at = Position(self._term_at(self._image_index) or 0, self._image_index)
        if left_out and self._tail.first > at.index + 1:
            raise RefusedError("not-ready", "a round that nobody else has heard of is under way")
        self._peers.image_made(at.index, self._tail.first)
        terms = tuple(term for term in self.terms if term[1] <= at.index)
        return ShardOrder(self.shard.assignment, state, self.reign, at, terms), arrays

    def state(self, now: float) -> ReplicaState:
        """For the supervisor. A copy that differs says that it has nothing."""
        return ReplicaState(
            shard=self.shard.assignment.shard,
            role=self.role,
            term=self.term,
            revision=self.reign.revision if self.reign is not None else -1,
            at=self._known_at(),
            acknowledged=self.acknowledged(now),
            lagging=tuple((peer.server, self.lacks(peer.server)) for peer in self._peers.all),
            server=self.server,
        )

    def check_invariants(self) -> None:
        """Raise AssertionError if the copy contradicts itself."""
        self.shard.check_invariants()
        self._tail.check_invariants()
        self._peers.check_invariants(self._index)
        indices = [index for _, index in self.terms]
        assert list(self.terms) == sorted(set(self.terms))
        assert indices == sorted(set(indices))
        assert len(indices) <= KEPT_TERMS
        assert all(0 < index <= self._index for index in indices)
        assert self.own_log <= self._index
        assert self._tail.first + len(self._tail) == self._index + 1
        assert self._image_index <= self._index
        assert bool(self.shard.left_out) <= (self._image_index < self._index)
        assert self.at.term <= self.term
        assert self.reign is None or self.reign.term <= self.term
        assert self.role == "primary" or not self._peers.all

    def _write(self, kind: EntryKind, parts: Sequence[Buffer]) -> list[Entry]:
        """The primary's next entry; [] if nobody wants it."""
        if not self.keeps_entries:
            self._count(kind, self.term)
            self._tail.begin_after(self._index)
            return []
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        entry = Entry(self._index + 1, self.term, kind, body)
        self._take(entry)
        return [entry]

    def _digest_if_due(self) -> list[Entry]:
        every = self.shard.assignment.log.digest_every
        if not self.keeps_entries or self._index - self._digest_index < every:
            return []
        body = self.shard.digest().to_bytes(DIGEST_BYTES, "little")
        return self._write(EntryKind.DIGEST, (body,))

    def _take(self, entry: Entry) -> None:
        """An entry that has been applied."""
        self._count(entry.kind, entry.term)
        self._tail.add(entry)
        self._trim()

    def _count(self, kind: EntryKind, term: int) -> None:
        self._index += 1
        if kind is EntryKind.TERM:
            self.terms = with_term(self.terms, term, self._index)
        elif kind is EntryKind.DIGEST:
            self._digest_index = self._index
        if not self.shard.left_out:
            self._image_index = self._index

    def _trim(self) -> None:
        """Drop entries that nobody can need any more, and those past the limit."""
        unneeded = self._image_index
        limit = self.tail_limit_bytes
        if self.role == "primary":
            unneeded = min(unneeded, self._peers.needed_after(self._tail.first, self._index))
        elif self.reign is not None and len(self.reign.backups) + len(self.reign.learners) > 1:
            # Should it become primary, others may lack a little. More would not pay: an image is
            # not much larger than the parameters.
            unneeded = 0
            limit = min(limit, self.shard.parameters.nbytes)
        self._tail.drop_through(unneeded)
        if self._tail.size > limit:
            self._tail.shorten(limit, self._image_index)

    def _step_down(self, role: Role) -> None:
        self.role = role
        self._peers = PeerTable()
        self._trim()

    def _known_at(self) -> Position:
        return Position() if self.differs else self.at

    def _term_at(self, index: int) -> int | None:
        return term_at(self.terms, index)

    def _agrees(self, positions: Iterable[Position]) -> bool:
        """Whether those of the positions that this log reaches are in it."""
        reached = (place for place in positions if place.index <= self._index)
        return all(self._term_at(place.index) == place.term for place in reached)

    def _require_term(self, term: int) -> None:
        if term < self.term:
            raise RefusedError(
                "stale-term",
                f"term {term} of shard {self.shard.assignment.shard} is over: "
                f"this server has seen term {self.term}",
            )

    def _require_sender(self, term: int) -> None:
        self._require_term(term)
        number = self.shard.assignment.shard
        if self.role == "recovered":
            # What it promised before it was restarted is forgotten: only the supervisor knows.
            raise RefusedError("not-ready", f"this server waits to hear who holds shard {number}")
        if term > self.term:
            self.term = term
            self._step_down("sealed" if self.role == "primary" else self.role)
        elif self.role == "primary":
            raise RefusedError("conflict", f"this server itself holds shard {number}")


def replica_of(
    order: ShardOrder,
    arrays: Mapping[str, NDArray[Any]],
    entries: Iterable[Entry],
    server: int,
    shard_type: type[Shard] = Shard,
    *,
    keeps: bool = True,
) -> Replica:
    """The copy that a snapshot and the entries after it lead to; it follows no reign yet.

    Raises FrameError if the arrays do not fit, DamagedError if the entries do not continue them.
    """
    shard = shard_of(order, arrays, shard_type)
    replica = Replica(shard, server, at=order.at, terms=order.terms, role="recovered", keeps=keeps)
    for entry in entries:
        if entry.index > order.at.index:
            replica.replay(entry)
    return replica
