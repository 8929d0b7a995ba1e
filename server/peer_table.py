"""What a primary knows of the other copies of its shard, and what may be acknowledged therefore.

The rule, for an entry that the primary's own log has, with B backups in the set:

- all B have it: acknowledged, whatever the lease. A promotion seals a backup first, so somebody
  who is no longer primary cannot get there; and with B = 0 nobody can be promoted;
- the lease has ended: not acknowledged;
- otherwise: once as many backups have it as `acks` asks for.

The supervisor's set may be smaller or larger for a moment than it is known here. For "all" it is
enough that this one includes it. Where one backup is enough (`replica`), that one has to be in the
supervisor's set for certain: learners that are being admitted do not count, and neither do backups
that may have been dropped. A backup is dropped only when this table is asked first (`doubt`).
"""

from __future__ import annotations

from dataclasses import dataclass

from psedge.protocol.replicas import Peer, Reign

#: `has` of a copy that has not been heard in this term, or has another log.
NOTHING = -1


@dataclass(slots=True)
class _Copy:
    """has: index of its latest entry. image: that the latest image for it included, if it needs
    one; with neither heard nor image it holds the whole tail, as it may lack but a little of it.
    counts_from: entries up to this one were perhaps acknowledged before anyone counted on it.
    """

    has: int = NOTHING
    heard: bool = False
    image: int | None = None
    counts_from: int = 0


class PeerTable:
    """Of one reign at a time. all: backups and learners. in_set: backups, and learners whose
    admission may already be decided. With a new reign it is: a request that was made under another
    one is not carried out any more.
    """

    def __init__(self) -> None:
        self.all: tuple[Peer, ...] = ()
        self.in_set: tuple[Peer, ...] = ()
        self._reign: Reign | None = None
        self._copies: dict[int, _Copy] = {}
        self._admitting: set[int] = set()
        #: Backups that are not counted on; True: the supervisor may have dropped them.
        self._doubted: dict[int, bool] = {}
        #: Of those in `in_set`, and of backups that are not doubted: these are in the supervisor's
        #: set for certain.
        self._required: tuple[_Copy, ...] = ()
        self._counted: tuple[_Copy, ...] = ()
        #: The latest entry that was acknowledged in this term.
        self._promised = 0

    def follow(self, reign: Reign) -> None:
        """A reign of this server. Within a term, what is known of those who remain is kept."""
        if self._reign is not None and self._reign.term != reign.term:
            self._copies.clear()
            self._promised = 0
        if self._reign is None or self._reign.revision != reign.revision:
            self._admitting.clear()
            self._doubted = dict.fromkeys(reign.doubted, False)
        self._reign = reign
        self.all = (*reign.backups, *reign.learners)
        self._copies = {peer.server: self._copies.get(peer.server, _Copy()) for peer in self.all}
        self._count()

    def admit(self, server: int, latest: int) -> bool:
        """Count a learner as in the set, for entries after `latest`; of anyone else say False.

        True: it has all that was acknowledged before it counted, so that it may be promoted and
        the supervisor be asked to admit it. False: it is to be asked later.
        """
        if self._reign is None or self._reign.role_of(server) != "learner":
            return False
        copy = self._copies[server]
        if server not in self._admitting:
            copy.counts_from = latest
            self._admitting.add(server)
            self._count()
        return copy.has >= copy.counts_from

    def doubt(self, server: int) -> bool:
        """Count on a backup no more; it fails those who wait for it.

        True: whoever is left in the set without it has all that was acknowledged, so that the
        supervisor may be asked to drop it. False: it is to be asked later. Of anyone else: True.
        """
        if self._reign is None or self._reign.role_of(server) != "backup":
            return True
        self._doubted.setdefault(server, False)
        self._count()
        self._doubted[server] |= self._can_spare(server)
        return self._doubted[server]

    def trust(self, server: int) -> bool:
        """Count on a backup again. False: it may have been dropped already, or is about to be, and
        others are counted on; so the supervisor has to be asked until it answers."""
        reign = self._reign
        if reign is not None and server in reign.doubted:
            return False
        if reign is not None and self._doubted.get(server, False):
            return reign.acks != "replica" or len(reign.backups) == 1
        if self._doubted.pop(server, None) is not None:
            self._count()
        return True

    def heard(self, server: int, index: int) -> None:
        """A copy's latest entry is `index`, NOTHING if its log is another one."""
        copy = self._copies.get(server)
        if copy is not None:
            copy.has, copy.heard, copy.image = index, True, None

    def image_made(self, index: int, first: int) -> None:
        """An image up to `index` is on its way to those whom a tail from `first` on cannot help."""
        for copy in self._copies.values():
            if copy.image is not None and copy.image + 1 < first:
                copy.image = None
            if copy.image is None and copy.heard and copy.has + 1 < first:
                copy.image = index

    def has(self, server: int) -> int:
        """Index of a copy's latest entry, as far as this is known; 0 at least."""
        copy = self._copies.get(server)
        return max(0, copy.has) if copy is not None else 0

    def needed_after(self, first: int, latest: int) -> int:
        """Up to which index nobody needs the entries of a tail from `first` to `latest`."""
        return min(
            (_needed_after(copy, first, latest) for copy in self._copies.values()), default=latest
        )

    def acknowledged(self, own: int, *, lease_holds: bool) -> int:
        """Index up to which entries are acknowledged. own: what the primary's own log has."""
        index = own
        if self._required and self._reign is not None:
            index = min([copy.has for copy in self._required])
            if lease_holds and self._reign.acks == "primary":
                index = own
            elif lease_holds and self._reign.acks == "replica":
                index = max(index, self._best())
        index = max(0, min(own, index))
        self._promised = max(self._promised, index)
        return index

    def check_invariants(self, latest: int) -> None:
        """Raise AssertionError if somebody has more than there is, or counts who is no peer."""
        servers = {peer.server for peer in self.all}
        assert len(servers) == len(self.all)
        assert self._copies.keys() == servers
        assert self._admitting <= servers
        assert {peer.server for peer in self.in_set} <= servers
        assert self._doubted.keys() <= servers
        assert all(NOTHING <= copy.has <= latest for copy in self._copies.values())

    def _best(self) -> int:
        """The latest entry of those that are counted on; NOTHING if nobody is."""
        return max([copy.has for copy in self._counted], default=NOTHING)

    def _can_spare(self, server: int) -> bool:
        assert self._reign is not None
        if self._reign.acks != "replica":
            # With `all` everybody has it, and with `primary` nobody needs to.
            return True
        if self._counted:
            return self._best() >= self._promised
        # All of them fail. Who has least goes first, so that whoever remains has more.
        least = min(self.in_set, key=lambda peer: (self._copies[peer.server].has, peer.server))
        return least.server == server

    def _count(self) -> None:
        if self._reign is not None:
            admitted = [peer for peer in self._reign.learners if peer.server in self._admitting]
            self.in_set = (*self._reign.backups, *admitted)
            self._required = tuple(self._copies[peer.server] for peer in self.in_set)
            self._counted = tuple(
                self._copies[peer.server]
                for peer in self._reign.backups
                if peer.server not in self._doubted
            )


def _needed_after(copy: _Copy, first: int, latest: int) -> int:
    if not copy.heard:
        return first - 1
    if copy.has + 1 >= first:
        return copy.has
    return copy.image if copy.image is not None and copy.image + 1 >= first else latest
