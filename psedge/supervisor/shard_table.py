"""Who reigns over each shard: the one table that must never contradict itself.

A change is first proposed, then written to the supervisor's store with `export(proposed)`, then
enacted with `enact`; only what is enacted is told to anybody. Each proposal carries its reason.

Law of the file: terms of a shard only rise, a term has one primary, revisions rise by one, and a
change of the set belongs to the term in which it was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from psedge.protocol.errors import RefusedError
from psedge.protocol.replicas import Acks, Peer, Position, Reign


class ServerRecord(msgspec.Struct, frozen=True):
    """What must be remembered of a server process: number, address, whose logs its folder holds."""

    server: int
    url: str
    incarnation: int
    store: str = ""
    lossless: tuple[str, ...] = ()


class ShardTableState(msgspec.Struct, frozen=True):
    """What the supervisor's store keeps of the table.

    reserved: (shard, highest term that a copy may have promised). map_revision: of the primaries'
    addresses. at: (shard, entry up to which workers have been told that theirs counts), as of when
    this was written; what a lost shard had at least.
    """

    reigns: tuple[Reign, ...] = ()
    reserved: tuple[tuple[int, int], ...] = ()
    map_revision: int = 0
    at: tuple[tuple[int, Position], ...] = ()


class Decision(msgspec.Struct, frozen=True):
    """What is to be done about a shard, and why, in words for people.

    server: whom it is about, -1: nobody. reign: the one that follows, None: it stays.
    lost: acknowledged entries that are known to be gone. certain: False: there may be more.
    from_disk: who is promoted has read its log from a disk, which may have been damaged.
    """

    action: str
    reason: str
    shard: int = -1
    server: int = -1
    reign: Reign | None = None
    lost: int = 0
    certain: bool = True
    from_disk: bool = False


class ShardTable:
    """Reigns by shard, with the terms that are reserved for the next ones."""

    def __init__(self) -> None:
        self.map_revision = 0
        self._reigns: dict[int, Reign] = {}
        self._reserved: dict[int, int] = {}
        self._at: dict[int, Position] = {}
        #: The next revision where copies of an earlier, forgotten table may have seen higher ones.
        self._revisions: dict[int, int] = {}

    @classmethod
    def restored(cls, state: ShardTableState) -> ShardTable:
        """The table of an earlier supervisor of this run."""
        table = cls()
        table.map_revision = state.map_revision
        table._reigns = {reign.shard: reign for reign in state.reigns}
        table._reserved = dict(state.reserved)
        table._at = dict(state.at)
        return table

    def export(
        self, proposed: Iterable[Reign] = (), *, reserved: Iterable[tuple[int, int]] = ()
    ) -> ShardTableState:
        """What to store; with reigns and (shard, term) that are enacted once it is stored."""
        after = ShardTable()
        after.map_revision = self.map_revision
        after._reigns, after._reserved = dict(self._reigns), dict(self._reserved)
        after._revisions = self._revisions
        for shard, term in reserved:
            after.reserve(shard, term)
        after.enact(*proposed)
        return ShardTableState(
            reigns=after.reigns(),
            reserved=tuple(sorted(after._reserved.items())),
            map_revision=after.map_revision,
            at=tuple(sorted(self._at.items())),
        )

    def reign(self, shard: int) -> Reign | None:
        return self._reigns.get(shard)

    def reigns(self) -> tuple[Reign, ...]:
        """All of them, by shard."""
        return tuple(self._reigns[shard] for shard in sorted(self._reigns))

    def held_by(self, server: int) -> list[Reign]:
        """Those in which a server has a part."""
        return [reign for reign in self.reigns() if reign.role_of(server) is not None]

    def at(self, shard: int) -> Position:
        """The entry up to which workers have been told, as far as is known here."""
        return self._at.get(shard, Position())

    def note_position(self, shard: int, at: Position) -> None:
        self._at[shard] = max(at, self.at(shard))

    def heard_of(self, shard: int, term: int, revision: int) -> None:
        """A copy has seen so much of a table before this one; what follows is higher."""
        self.reserve(shard, term)
        self._revisions[shard] = max(revision + 1, self._revisions.get(shard, 0))

    def forget(self) -> None:
        """End all reigns; those that follow are higher."""
        for reign in self.reigns():
            self.heard_of(reign.shard, reign.term, reign.revision)
        self._reigns.clear()
        self._at.clear()

    def next_term(self, shard: int) -> int:
        """Higher than any that anybody can have heard of."""
        reign = self._reigns.get(shard)
        return max(self._reserved.get(shard, 0), reign.term if reign is not None else 0) + 1

    def is_sealing(self, shard: int) -> bool:
        """Whether copies may have promised a term without a reign: the present one is over."""
        reign = self._reigns.get(shard)
        return reign is not None and self._reserved.get(shard, 0) > reign.term

    def opened(
        self, shard: int, term: int, primary: Peer, backups: Iterable[Peer], acks: Acks, why: str
    ) -> Decision:
        """Hand a shard out, for the first time or again."""
        reign = Reign(shard, term, self._next_revision(shard), primary, tuple(backups), acks=acks)
        return Decision("open", why, shard, primary.server, reign)

    def promoted(
        self, shard: int, term: int, primary: Peer, learners: Iterable[Peer], why: str
    ) -> Decision:
        """A new reign. Nobody is in its set until the primary has seen that they have its log."""
        others = tuple(peer for peer in learners if peer.server != primary.server)
        reign = Reign(
            shard,
            term,
            self._next_revision(shard),
            primary,
            learners=others,
            acks=self._known(shard).acks,
        )
        return Decision("promote", why, shard, primary.server, reign)

    def is_overtaken(self, shard: int, term: int, revision: int) -> bool:
        """Whether something has changed that a primary had not heard of when it asked for a change.

        Raises RefusedError `stale-term` when the term's reign is over.
        """
        return self._of_term(shard, term).revision != revision

    def dropped(self, shard: int, term: int, server: int, why: str) -> Decision:
        """Take a backup out of the set, or a learner that its primary may have asked to admit: that
        request is overtaken then, wherever it is. `keep` if the server has no part.

        Raises RefusedError `stale-term` when the term's reign is over.
        """
        reign = self._of_term(shard, term)
        if reign.role_of(server) in (None, "primary"):
            return Decision("keep", f"server {server} is no backup", shard, server)
        backups = tuple(peer for peer in reign.backups if peer.server != server)
        learners = tuple(peer for peer in reign.learners if peer.server != server)
        return self._changed(reign, "drop", server, why, backups=backups, learners=learners)

    def given_up(self, shard: int, term: int, server: int, why: str) -> Decision:
        """The supervisor takes a backup or a learner for dead, which the primary may not.

        Where one backup is enough for an acknowledgement it may be this one, until the primary
        hears of it. Somebody else could then be promoted without knowing, so such a backup is only
        doubted: the primary asks for its drop once the others can do without. Raises RefusedError
        `stale-term` as `dropped` does.
        """
        reign = self._of_term(shard, term)
        if reign.role_of(server) != "backup":
            return self.dismissed(shard, server, why)
        if reign.acks != "replica" or not (len(reign.backups) > 1 or reign.learners):
            return self.dropped(shard, term, server, why)
        if server in reign.doubted:
            return Decision("keep", f"server {server} is doubted", shard, server)
        return self._changed(reign, "doubt", server, why, doubted=(*reign.doubted, server))

    def admitted(self, shard: int, term: int, server: int, why: str) -> Decision:
        """Take a learner into the set; `keep` if it is in already.

        Raises RefusedError `stale-term` as `dropped` does, `conflict` if it is no learner.
        """
        reign = self._of_term(shard, term)
        if any(peer.server == server for peer in reign.backups):
            return Decision("keep", f"server {server} is in the set", shard, server)
        found = [peer for peer in reign.learners if peer.server == server]
        if not found:
            raise RefusedError(
                "conflict", f"server {server} is no learner of shard {shard}, so it is not admitted"
            )
        learners = tuple(peer for peer in reign.learners if peer.server != server)
        backups = (*reign.backups, *found)
        return self._changed(reign, "admit", server, why, backups=backups, learners=learners)

    def recruited(self, shard: int, peer: Peer, why: str) -> Decision:
        """A server becomes a learner; `keep` if it has a part already."""
        reign = self._known(shard)
        if reign.role_of(peer.server) is not None:
            return Decision("keep", f"server {peer.server} has a part", shard, peer.server)
        learners = (*reign.learners, peer)
        return self._changed(reign, "recruit", peer.server, why, learners=learners)

    def dismissed(self, shard: int, server: int, why: str) -> Decision:
        """A learner is given up; `keep` if it is none. Nobody counted on it."""
        reign = self._known(shard)
        learners = tuple(peer for peer in reign.learners if peer.server != server)
        if learners == reign.learners:
            return Decision("keep", f"server {server} is no learner", shard, server)
        return self._changed(reign, "dismiss", server, why, learners=learners)

    def reserve(self, shard: int, term: int) -> None:
        """Copies may promise this term from now on; it has been stored."""
        self._reserved[shard] = max(term, self._reserved.get(shard, 0))

    def enact(self, *reigns: Reign) -> None:
        """They have been stored and hold from now on.

        Raises ValueError for one that does not follow the present one.
        """
        for reign in reigns:
            before = self._reigns.get(reign.shard)
            if reign.revision != self._next_revision(reign.shard):
                raise ValueError(f"shard {reign.shard}: {reign} does not follow {before}")
            if before is not None and reign.term < before.term:
                raise ValueError(f"shard {reign.shard}: term {reign.term} after {before.term}")
            self._reigns[reign.shard] = reign
            self.reserve(reign.shard, reign.term)
            if before is None or (before.term, before.primary) != (reign.term, reign.primary):
                self.map_revision += 1

    def check_invariants(self) -> None:
        """Raise AssertionError if the table contradicts itself."""
        for shard, reign in self._reigns.items():
            assert reign.shard == shard
            assert self._reserved.get(shard, 0) >= reign.term > 0, f"shard {shard}: term not kept"
            everyone = [reign.primary, *reign.backups, *reign.learners]
            numbers = [peer.server for peer in everyone]
            assert len(set(numbers)) == len(numbers), f"shard {shard}: two parts in {reign}"
            backups = [peer.server for peer in reign.backups]
            assert set(reign.doubted) <= set(backups), f"shard {shard}: {reign} doubts a stranger"

    def _next_revision(self, shard: int) -> int:
        reign = self._reigns.get(shard)
        return max(0 if reign is None else reign.revision + 1, self._revisions.get(shard, 0))

    def _known(self, shard: int) -> Reign:
        reign = self._reigns.get(shard)
        if reign is None:
            raise RefusedError("not-found", f"nobody reigns over shard {shard}")
        return reign

    def _of_term(self, shard: int, term: int) -> Reign:
        """The present reign, asked for by its own primary."""
        reign = self._known(shard)
        if reign.term != term or self.is_sealing(shard):
            raise RefusedError(
                "stale-term", f"the reign of term {term} over shard {shard} has ended"
            )
        return reign

    @staticmethod
    def _changed(
        reign: Reign,
        action: str,
        server: int,
        why: str,
        *,
        backups: tuple[Peer, ...] | None = None,
        learners: tuple[Peer, ...] | None = None,
        doubted: tuple[int, ...] | None = None,
    ) -> Decision:
        members = reign.backups if backups is None else backups
        suspects = reign.doubted if doubted is None else doubted
        after = msgspec.structs.replace(
            reign,
            revision=reign.revision + 1,
            backups=members,
            learners=reign.learners if learners is None else learners,
            doubted=tuple(peer.server for peer in members if peer.server in suspects),
        )
        return Decision(action, why, reign.shard, server, after)
