"""What supervisor and servers say to each other about shards, and what a shard is made of.

The structs travel as JSON; those that come with arrays travel in a bundle (`bundle.py`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from psedge.protocol.coding import CodingSettings
from psedge.protocol.layout import Slice, TensorSlice
from psedge.protocol.replicas import Position, Reign, ReplicaState


class GroupSettings(msgspec.Struct, frozen=True):
    """One parameter group, fully resolved. Rates are absolute, before the schedule's factor."""

    lr: float
    weight_decay: float = 0.0
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


class OptimizerSettings(msgspec.Struct, frozen=True):
    """What a shard needs to apply an update.

    rule: the update rule of all groups.
    momentum_adaptation: lower SGD's momentum by what asynchrony adds (Mitliagkas et al. 2016).
    delay_compensation: strength of DC-ASGD's correction (Zheng et al. 2017), 0 for none.
    """

    rule: Literal["sgd", "adam", "adamw"]
    groups: tuple[GroupSettings, ...]
    momentum_adaptation: bool = False
    delay_compensation: float = 0.0


class ScheduleSettings(msgspec.Struct, frozen=True):
    """Learning rate factor over samples; every length is in samples."""

    kind: Literal["constant", "step", "cosine", "one-cycle"] = "constant"
    total: int = 0
    warmup: int = 0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    final_factor: float = 0.0


class SyncSettings(msgspec.Struct, frozen=True):
    """How far workers may drift apart; see `psedge.server.config.SyncConfig`."""

    mode: Literal["bsp", "ssp", "asp"]
    staleness_bound: int = 3
    lag_bound: int | None = None
    lag_action: Literal["damp", "refuse"] = "damp"
    weight_prediction: bool = False
    local_steps: int = 1


class Segment(msgspec.Struct, frozen=True):
    """A run of parameters of one group, in the shard's own coordinates."""

    start: int
    stop: int
    group: int


class LogSettings(msgspec.Struct, frozen=True):
    """What becomes of a shard's log; see `psedge.server.config.DurabilityConfig`."""

    sync: Literal["off", "group", "always"] = "off"
    sync_seconds: float = 1.0
    segment_bytes: int = 64 * 10**6
    snapshot_bytes: int = 256 * 10**6
    digest_every: int = 256


class Assignment(msgspec.Struct, frozen=True):
    """What a server needs to own a shard; its arrays travel with it.

    start, stop: the shard's range of the parameter vector.
    tensors: the matrices in it, see `Slice`.
    buffers_start, buffers_stop: its range of the buffer vector.
    counters_bytes: length of the counter vector, which shard 0 holds whole; 0 on the others.
    """

    shard: int
    start: int
    stop: int
    buffers_start: int
    buffers_stop: int
    counters_bytes: int
    segments: tuple[Segment, ...]
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    sync: SyncSettings
    tensors: tuple[TensorSlice, ...] = ()
    coding: CodingSettings = CodingSettings()
    log: LogSettings = LogSettings()

    @property
    def slice(self) -> Slice:
        return Slice(self.start, self.stop - self.start, self.tensors)


class Progress(msgspec.Struct, frozen=True):
    """What one shard has seen of one worker since it joined under this incarnation.

    samples: of all its pushes, applied or refused, in the order of its batches.
    staleness: of its latest push.
    """

    worker: int
    incarnation: int
    clock: int = 0
    sequence: int = 0
    samples: int = 0
    pushes_applied: int = 0
    pushes_refused_nonfinite: int = 0
    pushes_refused_lag: int = 0
    staleness: int = 0
    staleness_max: int = 0
    lag_max: int = 0


class ShardReport(msgspec.Struct, frozen=True):
    """A shard in figures. samples_applied counts only accepted pushes; samples_seen all.

    workers: of shard 0 only, those whose progress changed since the last heartbeat that was
    answered, the latest changes last. revision: of the members as the shard knows them.
    contributors: workers whose gradients are in the latest update.
    """

    shard: int
    version: int
    samples_applied: int
    samples_seen: int
    pushes_applied: int
    pushes_refused: int
    staleness_max: int
    lag_max: int
    workers: tuple[Progress, ...] = ()
    revision: int = -1
    contributors: int = 0


class AccountState(msgspec.Struct, frozen=True):
    """What a shard knows of one incarnation of a worker, for a copy that behaves like it.

    clock: at the gate. latest_status: number of a `wire.Status`. member: whether it is live.
    """

    progress: Progress
    clock: int = 0
    latest_status: int = 0
    latest_samples: int = 0
    member: bool = False
    idle: bool = False


class ShardState(msgspec.Struct, frozen=True):
    """All that a shard is besides its arrays, which travel with it; the default is a new shard.

    clock: the largest that any worker has reached. workers: pushes of a `bsp` round that was not
    complete are not in it, so whoever sends them again has them applied.
    accounts: of an image, from which a copy goes on bit for bit: everyone with an account, members
    first, each in the shard's own order; `workers` is then empty. None in a checkpoint, whose
    workers join anew. revision: of the members; only an image has one. mean_lag: of the latest
    pushes. contributors: to the latest update.
    """

    version: int = 0
    buffers_version: int = 0
    optimizer_steps: int = 0
    clock: int = 0
    samples_applied: int = 0
    samples_seen: int = 0
    pushes_applied: int = 0
    pushes_refused: int = 0
    staleness_max: int = 0
    lag_max: int = 0
    workers: tuple[Progress, ...] = ()
    accounts: tuple[AccountState, ...] | None = None
    revision: int = -1
    mean_lag: float = 0.0
    contributors: int = 0


class ShardOrder(msgspec.Struct, frozen=True):
    """A shard on its way between supervisor, servers and disks; its arrays travel with it.

    state: None makes a new shard of the arrays, otherwise it continues where the state says.
    reign: who holds it, for the receiver to find its role; None in a checkpoint and on disk.
    at: the entry that the state includes; terms: (term, index of its first entry) of the latest
    terms in its log, oldest first.
    """

    assignment: Assignment
    state: ShardState | None = None
    reign: Reign | None = None
    at: Position = Position()
    terms: tuple[tuple[int, int], ...] = ()


class Member(msgspec.Struct, frozen=True):
    """A live worker, as shards know it. idle: it has no data for now and holds nobody back."""

    worker: int
    incarnation: int
    idle: bool = False


class Members(msgspec.Struct, frozen=True):
    """The live workers. An older revision than the last one seen is ignored.

    since: None: these are all of them. Else only those that changed after revision `since`; `gone`
    are those that are no longer live. A shard that has not seen that revision ignores the message,
    as its report shows, and is then told of all.
    """

    revision: int
    members: tuple[Member, ...]
    since: int | None = None
    gone: tuple[int, ...] = ()


class ServerReport(msgspec.Struct, frozen=True):
    """All shards of a server; the reply to Members and each server heartbeat.

    incarnation: as the server registered; a supervisor that was started anew may have given the
    number `server` to another by now. shards: those of which it is the primary, as far as their
    pushes are acknowledged. replicas: every copy that it holds. trouble: what of its logs it cannot
    write, and why; empty while it can.
    """

    server: int
    incarnation: int
    shards: tuple[ShardReport, ...]
    bytes_received: int = 0
    bytes_sent: int = 0
    replicas: tuple[ReplicaState, ...] = ()
    trouble: str = ""


class LocalOptimizer(msgspec.Struct, frozen=True):
    """The optimizer that workers themselves step with when `local_steps` > 1."""

    optimizer: OptimizerSettings
    groups: tuple[int, ...]
