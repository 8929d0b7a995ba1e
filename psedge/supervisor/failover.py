"""When a primary is replaced, and by whom: a pure function of what is known about a shard's copies.

A copy is *sealed* once it has promised a higher term: it takes no more entries of the old primary.
So a primary that only seems dead can acknowledge nothing as soon as enough of its set is sealed, or
once the lease that it was granted has ended; see `docs/decisions/0018` for the rule it goes by.
The copy that has seen most is promoted. What that may cost is part of the decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from psedge.protocol.replicas import Position, Reign
from psedge.supervisor.shard_table import Decision

#: How long a copy that is heard of, but does not answer, is waited for before the others go on.
SEAL_PATIENCE_SECONDS = 10.0
#: How long the first copies that came back from their disks wait for the others.
RETURN_PATIENCE_SECONDS = 10.0

_NOWHERE = Position()

#: What is known of a copy's log. `live`: can be sealed. `silent`: its server's lease is over.
#: `away`: its process is gone, its disk may come back. `gone`: so is what it had.
Fate = Literal["live", "sealed", "silent", "away", "gone"]


@dataclass(frozen=True, slots=True)
class Copy:
    """A member of the set. server: its number in the reign.

    holder: server that has this log now; another one after a restart.
    stopped: the member's own process is proven dead, so it acknowledges nothing any more.
    displaced: where it was, a server with another folder has come in.
    at: its latest entry, once sealed. silence: seconds since the holder was heard. damage: why the
    log that it was read from breaks off early, in words.
    """

    server: int
    fate: Fate
    holder: int
    stopped: bool = False
    displaced: bool = False
    at: Position = _NOWHERE
    silence: float = 0.0
    damage: str = ""

    @property
    def returned(self) -> bool:
        """What it has was read from a disk."""
        return self.holder != self.server


@dataclass(frozen=True, slots=True)
class View:
    """All that is known of a shard whose primary may have to be replaced.

    evidence: what speaks against the primary, in words. told: the entry up to which workers have
    been told. sealing_seconds: since the seals began, None: they did not. returned_seconds: since
    the first copy came back from a disk, None: none did. lease_over: what the primary was granted
    has certainly ended. durable: logs are on disk; synced: every entry of them, else they are
    synced every `sync_seconds`. lost_after: silence after which the last copies are given up, if no
    disk can bring them back.
    """

    reign: Reign
    primary: Copy
    backups: tuple[Copy, ...] = ()
    evidence: str = ""
    told: Position = _NOWHERE
    sealing_seconds: float | None = None
    returned_seconds: float | None = None
    lease_over: bool = False
    durable: bool = False
    synced: bool = False
    sync_seconds: float = 1.0
    lost_after: float = 60.0

    @property
    def copies(self) -> tuple[Copy, ...]:
        return (self.primary, *self.backups)

    @property
    def sealed(self) -> list[Copy]:
        return [copy for copy in self.copies if copy.fate == "sealed"]


def decide(view: View) -> Decision:
    """`keep` the primary, `seal` copies, `promote` one of them, `wait`, wait for disks to come back
    (`await`), or give the shard up (`lost`)."""
    shard, primary = view.reign.shard, view.primary
    healthy = primary.fate == "live" and not primary.stopped
    if healthy and view.sealing_seconds is None:
        return Decision("keep", f"the primary, server {primary.server}, is there", shard)
    if not view.sealed:
        return _without_a_copy(view)
    missing = _missing(view)
    if not missing:
        return _promotion(view)
    if any(copy.fate == "live" for copy in missing):
        return Decision("seal", f"{_names(missing)} may have more of the log", shard)
    return Decision("wait", _why_waiting(view, missing), shard)


def may_acknowledge(view: View) -> bool:
    """Whether the old primary, as far as is known, might still tell workers that a push counts."""
    primary, acks = view.primary, view.reign.acks
    if primary.stopped or primary.fate == "sealed" or view.lease_over:
        return False
    closed = [copy.fate == "sealed" or copy.stopped for copy in view.backups]
    return not (any(closed) if acks == "all" else acks == "replica" and all(closed))


def _missing(view: View) -> list[Copy]:
    """Copies without which nobody may be promoted; the primary itself while it may go on."""
    waiting = [view.primary] if may_acknowledge(view) else []
    acks = view.reign.acks
    if acks == "all" and any(copy.fate == "sealed" and not copy.returned for copy in view.backups):
        return waiting
    patient = (view.sealing_seconds or 0.0) < SEAL_PATIENCE_SECONDS
    waiting += [copy for copy in view.backups if copy.fate == "live" and patient]
    if view.primary.returned and view.primary.fate == "live" and patient:
        waiting.append(view.primary)
    from_disk = all(copy.returned for copy in view.sealed)
    if from_disk and (view.returned_seconds or 0.0) < RETURN_PATIENCE_SECONDS:
        waiting += [copy for copy in view.copies if copy.fate in ("away", "silent")]
    return list(dict.fromkeys(waiting))


def _promotion(view: View) -> Decision:
    primary = view.primary
    best = max(view.sealed, key=lambda copy: (copy.at, copy is primary, -copy.holder))
    lost = max(view.told.index - best.at.index, 0)
    certain = _has_everything(view, synced=view.synced)
    reason = f"{view.evidence or 'its reign was interrupted'}; server {best.holder}"
    if best is primary and not best.returned:
        reason = f"server {best.holder} answers again and goes on in a new term"
    elif best.returned:
        reason += f" brings its log back from disk, up to entry {best.at.index}"
    else:
        reason += f" has the most of its log, up to entry {best.at.index}"
    if lost or not certain:
        reason += _loss(view, best, lost)
    return Decision(
        "promote",
        reason,
        view.reign.shard,
        best.holder,
        lost=lost,
        certain=certain,
        from_disk=best.returned,
    )


def _loss(view: View, best: Copy, lost: int) -> str:
    """What the promotion of `best` costs, or may cost, in words.

    lost: entries of which that is certain.
    """
    found = f"at least {lost} acknowledged entries are lost" if lost else ""
    if best.damage:
        loss = found or "acknowledged entries may be lost"
        return f"; {loss}, for its log breaks off early: {best.damage}"
    if view.durable and not view.synced and _has_everything(view, synced=True):
        # A process that is killed takes nothing with it: only a power cut does.
        span = f"the last {view.sync_seconds:g} s before a power cut"
        return f"; {found}, of {span}" if lost else f"; at most {span} may be lost"
    return f"; {found or 'acknowledged entries that only the others had may be lost'}"


def _has_everything(view: View, *, synced: bool) -> bool:
    """Whether some sealed copy has every entry that was acknowledged.

    synced: those that were read from a disk are complete.
    """

    def intact(copy: Copy) -> bool:
        return copy.fate == "sealed" and (not copy.returned or (synced and not copy.damage))

    backups = [intact(copy) for copy in view.backups]
    if intact(view.primary):
        return True
    if view.reign.acks == "all":
        return any(backups)
    return view.reign.acks == "replica" and bool(backups) and all(backups)


def _without_a_copy(view: View) -> Decision:
    """Nobody is sealed yet."""
    shard = view.reign.shard
    live = [copy for copy in view.copies if copy.fate == "live"]
    if live:
        return Decision("seal", f"{view.evidence}; asking {_names(live)}", shard)
    on_disk = [copy for copy in view.copies if copy.fate != "gone"]
    if view.durable and on_disk:
        reason = f"no copy is there until the log of {_either(on_disk)} is back"
        displaced = sorted((copy for copy in on_disk if copy.displaced), key=lambda c: c.holder)
        if displaced:
            reason += (
                f"; {_names(displaced)} came back with another folder: name the one with the log "
                "in --store within a minute"
            )
        return Decision("await", reason, shard)
    silent = [copy for copy in view.copies if copy.fate == "silent"]
    hopeful = [copy for copy in silent if copy.silence <= view.lost_after]
    if hopeful:
        return Decision("wait", f"the last copies, {_names(hopeful)}, are silent", shard)
    reason = f"{view.evidence}, its log is not back" if view.durable else view.evidence
    return Decision("lost", reason, shard, view.primary.server)


def _why_waiting(view: View, missing: list[Copy]) -> str:
    if view.primary in missing and may_acknowledge(view):
        return (
            f"server {view.primary.server} may still be the primary for others, until its lease "
            "has ended"
        )
    return f"{_names(missing)} may come back with more of the log"


def _names(copies: list[Copy] | tuple[Copy, ...]) -> str:
    numbers = ", ".join(str(copy.holder) for copy in copies)
    return f"server {numbers}" if len(copies) == 1 else f"servers {numbers}"


def _either(copies: list[Copy]) -> str:
    return f"server {' or '.join(map(str, sorted(copy.holder for copy in copies)))}"
