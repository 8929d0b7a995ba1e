"""The rows of the supervisor's book: what lies under which key, as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from psedge.protocol.coding import CodingSettings
from psedge.protocol.ports import RandomBits
from psedge.protocol.shards import Assignment, ScheduleSettings, SyncSettings
from psedge.protocol.status import Event
from psedge.supervisor.data_plan import PlanChanges, PlanHead
from psedge.supervisor.data_pool import AccountRow, PoolRow
from psedge.supervisor.membership import MembershipState, WorkerEntry
from psedge.supervisor.shard_table import ServerRecord, ShardTableState

IDENTITY = "identity"
GENERATION = "generation"
ORIGIN = "origin"
RUN = "run"
SHARDS = "shards"
SERVERS = "servers"
REVISION = "members/revision"
MEMBER = "members/worker/"
PLAN = "plan/head"
POOL = "plan/pool/"
ACCOUNT = "plan/account/"
EVENT = "journal/"

#: Rows of these are over when training starts anew.
_OF_TRAINING = ("members/", "plan/")
#: Rows that say who takes part and where; in a copied run folder they are somebody else's.
_OF_NODES = (RUN, SERVERS, *_OF_TRAINING)
_IDENTITY_BITS = 128

T = TypeVar("T")


class Origin(msgspec.Struct, frozen=True):
    """Where a book lies: what stays when a machine restarts, and differs for a copy.

    A folder that was moved keeps the file's number, one on a volume of a container keeps it too.
    """

    machine: str
    path: str
    file: int

    def is_same(self, other: Origin) -> bool:
        return self.file == other.file or (self.machine, self.path) == (other.machine, other.path)


#: How training has ended that was given up for its checkpoint.
GONE_BACK = "gone back"


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What training was started with, and how far its life has come.

    ended: how the run, or this training of it, has ended; empty while it goes on. config: as JSON
    types.
    seconds: of training before `started_at`, which is in seconds since 1970.
    bytes_before: pushed and pulled by then. resumed_samples: where it went on from, if it did.
    assignments: the shards as their servers have them.
    """

    ended: str = ""
    started_at: float
    seconds: float = 0.0
    bytes_before: tuple[int, int] = (0, 0)
    resumed_samples: int | None = None
    train_samples: int | None = None
    sync: SyncSettings
    schedule: ScheduleSettings
    coding: CodingSettings
    assignments: tuple[Assignment, ...]
    config: dict[str, Any] = {}


class BookState(msgspec.Struct, frozen=True):
    """What an earlier supervisor left.

    record: None where training never began. plan: None where workers bring their own loops.
    """

    record: RunRecord | None
    table: ShardTableState
    servers: tuple[ServerRecord, ...]
    members: MembershipState
    plan: PlanChanges | None
    journal: tuple[Event, ...]

    @property
    def training(self) -> bool:
        """Whether servers and workers may be training at this moment."""
        return self.record is not None and not self.record.ended and bool(self.table.reigns)


def opening(
    rows: Mapping[str, bytes], random_bits: RandomBits, origin: Origin | None
) -> dict[str, bytes]:
    """What a supervisor writes when it opens a book that holds `rows`."""
    generation = int(rows.get(GENERATION, b"0")) + 1
    identity = rows.get(IDENTITY) or f"{random_bits(_IDENTITY_BITS):032x}".encode()
    writes = {GENERATION: b"%d" % generation, IDENTITY: identity}
    return writes if origin is None else {**writes, ORIGIN: _json(origin)}


def copied_from(rows: Mapping[str, bytes], origin: Origin | None) -> str:
    """Where the book was copied from, in words; empty if it lies where it did."""
    if origin is None or ORIGIN not in rows:
        return ""
    before = msgspec.json.decode(rows[ORIGIN], type=Origin)
    return "" if before.is_same(origin) else f"{before.path} on {before.machine}"


def without_nodes(rows: Mapping[str, bytes]) -> dict[str, bytes]:
    """The rows of a copy: another run, that knows neither servers nor workers of the first.

    Terms stay, for they may only rise, and so does the journal.
    """
    kept = {
        key: value
        for key, value in rows.items()
        if key != IDENTITY and not key.startswith(_OF_NODES)
    }
    if SHARDS in kept:
        table = msgspec.json.decode(kept[SHARDS], type=ShardTableState)
        kept[SHARDS] = _json(msgspec.structs.replace(table, reigns=()))
    return kept


def is_of_training(key: str) -> bool:
    return key.startswith(_OF_TRAINING)


def restored(rows: Mapping[str, bytes]) -> BookState | None:
    """None where nothing but the opening was ever written."""
    if SHARDS not in rows and RUN not in rows:
        return None
    return BookState(
        record=_read(rows, RUN, RunRecord),
        table=_read(rows, SHARDS, ShardTableState) or ShardTableState(),
        servers=_read(rows, SERVERS, tuple[ServerRecord, ...]) or (),
        members=MembershipState(
            int(rows.get(REVISION, b"0")), tuple(_under(rows, MEMBER, WorkerEntry).values())
        ),
        plan=_plan(rows),
        journal=tuple(_under(rows, EVENT, Event).values()),
    )


def shard_rows(table: ShardTableState, servers: Sequence[ServerRecord]) -> dict[str, bytes | None]:
    return {SHARDS: _json(table), SERVERS: _json(list(servers))}


def member_rows(entries: Iterable[WorkerEntry]) -> dict[str, bytes | None]:
    """Without heartbeats: the next one of a live worker says all of it again."""
    rows: dict[str, bytes | None] = {}
    for entry in entries:
        before = entry.before if entry.live else entry.totals
        kept = msgspec.structs.replace(entry, heartbeat=None, before=before)
        rows[f"{MEMBER}{entry.worker}"] = _json(kept)
    return rows


def revision_row(revision: int) -> dict[str, bytes | None]:
    return {REVISION: b"%d" % revision}


def plan_rows(changes: PlanChanges) -> dict[str, bytes | None]:
    rows: dict[str, bytes | None] = {PLAN: _json(changes.head)} if changes.head else {}
    rows |= {f"{POOL}{name}": _json(pool) for name, pool in changes.pools.items()}
    for worker, account in changes.accounts.items():
        rows[f"{ACCOUNT}{worker}"] = None if account is None else _json(account)
    return rows


def run_row(record: RunRecord) -> dict[str, bytes | None]:
    return {RUN: _json(record)}


def event_row(event: Event, slot: int) -> dict[str, bytes | None]:
    return {f"{EVENT}{slot}": _json(event)}


def _plan(rows: Mapping[str, bytes]) -> PlanChanges | None:
    head = _read(rows, PLAN, PlanHead)
    if head is None:
        return None
    accounts = _under(rows, ACCOUNT, AccountRow)
    return PlanChanges(
        head,
        _under(rows, POOL, PoolRow),
        {int(worker): account for worker, account in accounts.items()},
    )


def _under(rows: Mapping[str, bytes], prefix: str, kind: type[T]) -> dict[str, T]:
    decoder = msgspec.json.Decoder(kind)
    return {
        key.removeprefix(prefix): decoder.decode(value)
        for key, value in rows.items()
        if key.startswith(prefix)
    }


def _read(rows: Mapping[str, bytes], key: str, kind: type[T]) -> T | None:
    return msgspec.json.decode(rows[key], type=kind) if key in rows else None


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
