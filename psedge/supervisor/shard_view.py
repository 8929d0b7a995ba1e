"""What is known of a shard's copies, put together for `failover.decide`."""

from __future__ import annotations

from dataclasses import dataclass, field

from psedge.protocol.replicas import Position, Reign
from psedge.server.config import DurabilityConfig
from psedge.supervisor.failover import Copy, Fate, View
from psedge.supervisor.server_list import ServerEntry, ServerList


@dataclass(slots=True)
class Sealing:
    """Copies of a shard that are asked to promise a term.

    sealed: by server that has promised it, its latest entry. empty: servers that hold no copy after
    all. asked_at: when each was asked last. returned_at: when the first copy from a disk promised.
    """

    term: int
    began_at: float
    sealed: dict[int, Position] = field(default_factory=dict)
    empty: set[int] = field(default_factory=set)
    asked_at: dict[int, float] = field(default_factory=dict)
    returned_at: float | None = None


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
        evidence=evidence_of(primary),
        told=told,
        sealing_seconds=None if sealing is None else now - sealing.began_at,
        returned_seconds=None if returned_at is None else now - returned_at,
        lease_over=now > primary.granted_until,
        durable=durable,
        synced=durability.log == "always",
        lost_after=servers.longest_lease,
    )


def evidence_of(entry: ServerEntry) -> str:
    """What speaks against a server, in words; nothing if it is there."""
    where = f"server {entry.server} at {entry.url}"
    if entry.gone:
        return f"{where} is dead: {entry.proof}"
    if entry.dead:
        return f"{where} is silent for {entry.detector.lease_seconds():.3g} s"
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
    holder, read_in_vain = entry, False
    if entry.dead and durable:
        heir = servers.successor(entry)
        if heir is not None and shard in heir.keeps:
            holder = heir
        elif heir is not None:
            read_in_vain = heir.attached
    at = None if sealing is None else sealing.sealed.get(holder.server)
    return Copy(
        entry.server,
        "gone" if read_in_vain else _fate_of(holder, sealing, durable),
        holder.server,
        stopped=entry.gone,
        at=Position() if at is None else at,
        silence=holder.detector.silence(now),
    )


def _fate_of(holder: ServerEntry, sealing: Sealing | None, durable: bool) -> Fate:
    if sealing is not None and holder.server in sealing.empty:
        return "gone"
    if holder.gone:
        return "away" if durable and holder.store else "gone"
    if holder.dead:
        return "silent"
    if sealing is not None and holder.server in sealing.sealed:
        return "sealed"
    return "live"
