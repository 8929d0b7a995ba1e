"""What is known of a shard's copies, put together for `failover.decide`."""

from __future__ import annotations

from dataclasses import dataclass, field

from psedge.protocol.replicas import Position, Reign
from psedge.server.config import DurabilityConfig
from psedge.supervisor.failover import SEAL_PATIENCE_SECONDS, Copy, Fate, View
from psedge.supervisor.server_list import ServerEntry, ServerList

#: The last copies of a shard that are only silent are given so long at least: a switch or a router
#: may be starting anew, and nothing is gained by giving up.
LAST_COPIES_SECONDS = 60.0
#: A log whose server came back with another folder is taken to be gone after so long: its identity
#: may be damaged, or the disk new; who only named the wrong folder has that time to name the right.
OTHER_FOLDER_SECONDS = 60.0


@dataclass(slots=True)
class Sealing:
    """Copies of a shard that are asked to promise a term.

    sealed: by server that has promised it, its latest entry. without: since when servers that were
    asked say that they have no copy. asked_at: when each was asked last. returned_at: when the
    first copy from a disk promised.
    """

    term: int
    began_at: float
    sealed: dict[int, Position] = field(default_factory=dict)
    without: dict[int, float] = field(default_factory=dict)
    asked_at: dict[int, float] = field(default_factory=dict)
    returned_at: float | None = None

    def forgive(self, seconds: float, now: float) -> None:
        """The supervisor itself was away for so long: that time counts for nothing."""
        self.began_at = min(self.began_at + seconds, now)
        for server, since in self.without.items():
            self.without[server] = min(since + seconds, now)
        if self.returned_at is not None:
            self.returned_at = min(self.returned_at + seconds, now)


def view_of(
    reign: Reign,
    servers: ServerList,
    sealing: Sealing | None,
    told: Position,
    durability: DurabilityConfig,
    now: float,
) -> View:
    """told: the entry up to which workers have been told."""
    durable = durability.log != "off"
    primary = servers.entries[reign.primary.server]
    members = [_copy_of(reign.shard, primary, servers, sealing, durable, now)]
    for peer in reign.backups:
        backup = servers.entries[peer.server]
        members.append(_copy_of(reign.shard, backup, servers, sealing, durable, now))
    returned_at = sealing.returned_at if sealing is not None else None
    return View(
        reign=reign,
        primary=members[0],
        backups=tuple(members[1:]),
        evidence=evidence_of(primary, now),
        told=told,
        sealing_seconds=None if sealing is None else now - sealing.began_at,
        returned_seconds=None if returned_at is None else now - returned_at,
        lease_over=now > primary.granted_until,
        durable=durable,
        synced=durability.log == "always",
        sync_seconds=durability.sync_seconds,
        lost_after=max(servers.longest_lease, LAST_COPIES_SECONDS),
    )


def evidence_of(entry: ServerEntry, now: float) -> str:
    """What speaks against a server, in words; nothing if it is there."""
    where = f"server {entry.server} at {entry.url}"
    if entry.gone:
        return f"{where} is dead: {entry.proof}"
    if entry.dead:
        return f"{where} is silent for {entry.detector.silence(now):.0f} s"
    return ""


def _copy_of(
    shard: int,
    entry: ServerEntry,
    servers: ServerList,
    sealing: Sealing | None,
    durable: bool,
    now: float,
) -> Copy:
    """The member itself, or whoever has read its log from its disk since."""
    holder, is_gone, displaced = entry, False, 0.0
    if entry.dead and durable:
        heir = servers.successor(entry)
        if heir is not None and shard in heir.keeps:
            holder = heir
        elif heir is not None:
            # It has read the folder in vain.
            is_gone = heir.attached
        elif entry.store:
            displaced = servers.displaced_seconds(entry, now)
            is_gone = displaced >= OTHER_FOLDER_SECONDS
    at = None if sealing is None else sealing.sealed.get(holder.server)
    read = holder.keeps.get(shard) if holder is not entry else None
    return Copy(
        entry.server,
        "gone" if is_gone else _fate_of(shard, holder, sealing, durable, now),
        holder.server,
        stopped=entry.gone,
        displaced=displaced > 0,
        at=Position() if at is None else at,
        silence=holder.detector.silence(now),
        damage="" if read is None else read.damage,
    )


def _fate_of(
    shard: int, holder: ServerEntry, sealing: Sealing | None, durable: bool, now: float
) -> Fate:
    if holder.gone:
        return "away" if durable and holder.store else "gone"
    if holder.dead:
        return "silent"
    if sealing is None:
        return "live"
    if holder.server in sealing.sealed:
        return "sealed"
    # One that is just starting says the same, so it has to say so for a while, and its heartbeats
    # too.
    since = sealing.without.get(holder.server)
    is_without = since is not None and now - since >= SEAL_PATIENCE_SECONDS
    return "gone" if is_without and holder.attached and shard not in holder.keeps else "live"
