"""Every control message, as a frozen struct that travels as JSON.

The path a request is posted to names its type; `PATHS` at the end lists them. Exchanges between
workers and shards are not here: they are frames, in `wire.py`. Bulk state (a shard's arrays, a
model's tensors) travels as one safetensors file, whose metadata holds the struct under the key
`message`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from psedge.protocol.layout import Layout


class Refusal(msgspec.Struct, frozen=True):
    """The body of every error reply. code: one of `errors.REFUSAL_CODES`."""

    code: str
    message: str


class Acknowledged(msgspec.Struct, frozen=True):
    """The empty answer."""


class Hello(msgspec.Struct, frozen=True):
    """Who asks. The first thing every node says; versions must agree exactly on the wire."""

    psedge: str
    wire: int


class HelloReply(msgspec.Struct, frozen=True):
    psedge: str
    wire: int
    supervisor: bool
    run: str


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
    """

    rule: Literal["sgd", "adam", "adamw"]
    groups: tuple[GroupSettings, ...]


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
    local_steps: int = 1


class Segment(msgspec.Struct, frozen=True):
    """A run of parameters of one group, in the shard's own coordinates."""

    start: int
    stop: int
    group: int


class Assignment(msgspec.Struct, frozen=True):
    """What a server needs to own a shard; its arrays travel with it.

    start, stop: the shard's range of the parameter vector.
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
    """A shard in figures. samples_applied counts only accepted pushes; samples_seen all."""

    shard: int
    version: int
    samples_applied: int
    samples_seen: int
    pushes_applied: int
    pushes_refused: int
    staleness_max: int
    lag_max: int
    workers: tuple[Progress, ...] = ()


class ShardState(msgspec.Struct, frozen=True):
    """All that a shard is besides its arrays, which travel with it; the default is a new shard.

    clock: the largest that any worker has reached. workers: pushes of a `bsp` round that was not
    complete are not in it, so whoever sends them again has them applied.
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


class ShardOrder(msgspec.Struct, frozen=True):
    """A shard on its way between supervisor and server; its arrays travel with it.

    state: None makes a new shard of the arrays, otherwise it continues where the state says.
    """

    assignment: Assignment
    state: ShardState | None = None


class Member(msgspec.Struct, frozen=True):
    """A live worker, as shards know it. idle: it has no data for now and holds nobody back."""

    worker: int
    incarnation: int
    idle: bool = False


class Members(msgspec.Struct, frozen=True):
    """The live workers, all of them. An older revision than the last one seen is ignored."""

    revision: int
    members: tuple[Member, ...]


class ServerReport(msgspec.Struct, frozen=True):
    """All shards of a server; the reply to Members and part of each server heartbeat."""

    server: int
    shards: tuple[ShardReport, ...]
    bytes_received: int = 0
    bytes_sent: int = 0


class Register(msgspec.Struct, frozen=True):
    """A server joins: where it listens, as seen from itself."""

    psedge: str
    wire: int
    host: str
    port: int
    incarnation: int


class RegisterReply(msgspec.Struct, frozen=True):
    server: int
    lease_seconds: float
    heartbeat_seconds: float


class ServerHeartbeatReply(msgspec.Struct, frozen=True):
    """command: `register` when the supervisor does not know the server (it was restarted)."""

    command: Literal["continue", "stop", "register"]


class ShardAddress(msgspec.Struct, frozen=True):
    """Where a shard lives. url: empty means at the supervisor's own address."""

    shard: int
    url: str
    start: int
    stop: int
    buffers_start: int
    buffers_stop: int


class ExperimentQuery(msgspec.Struct, frozen=True):
    """Asked by workers before they join, and again until `phase` is not `waiting`."""

    psedge: str
    wire: int


class Experiment(msgspec.Struct, frozen=True):
    """What to train.

    config: the resolved experiment as JSON types; empty when the model comes from a library user.
    layout: None until a model is known.
    phase: `waiting` while servers or the model are missing; `waiting_for` says what, in words.
    """

    run: str
    config: dict[str, Any]
    layout: Layout | None
    phase: Literal["waiting", "training", "finished", "stopped", "failed"]
    waiting_for: str = ""
    needs_model: bool = False


class Define(msgspec.Struct, frozen=True):
    """A library worker brings the model; its four vectors travel with it.

    optimizer: None leaves the choice to the server's config.
    groups: index into `optimizer.groups` of each parameter tensor, in the layout's order.
    """

    psedge: str
    wire: int
    layout: Layout
    optimizer: OptimizerSettings | None = None
    groups: tuple[int, ...] = ()


class Join(msgspec.Struct, frozen=True):
    """A worker comes in.

    layout_digest: of the model as this worker built it.
    local_samples: size of its own data set where placement is local, else None.
    loader: whether it wants index ranges from the supervisor (`psedge worker`) or has a loop of
    its own (`psedge.connect`).
    """

    psedge: str
    wire: int
    name: str
    incarnation: int
    layout_digest: str
    device: str
    loader: bool
    local_samples: int | None = None
    dataset_samples: int | None = None


class LocalOptimizer(msgspec.Struct, frozen=True):
    """The optimizer that workers themselves step with when `local_steps` > 1."""

    optimizer: OptimizerSettings
    groups: tuple[int, ...]


class JoinReply(msgspec.Struct, frozen=True):
    """push_codec, pull_codec: names in `psedge.compression.table`.

    lr_factor: the schedule's factor now; it matters to workers only with a local optimizer.
    """

    worker: int
    name: str
    shards: tuple[ShardAddress, ...]
    sync: SyncSettings
    push_codec: str
    pull_codec: str
    lease_seconds: float
    heartbeat_seconds: float
    local_optimizer: LocalOptimizer | None = None
    lr_factor: float = 1.0


class Claim(msgspec.Struct, frozen=True):
    """A worker asks for its next range of samples; a long poll.

    idle: it has pushed all it had, so it holds nobody back while it waits.
    """

    worker: int
    incarnation: int
    idle: bool


class ClaimReply(msgspec.Struct, frozen=True):
    """state: `range` with positions start..stop of the epoch's order; `wait`: ask again;
    `done`: no data is left in this run; `stop`: the run ends now; `rejoin`: not a member."""

    state: Literal["range", "wait", "done", "stop", "rejoin"]
    epoch: int = 0
    start: int = 0
    stop: int = 0


class Heartbeat(msgspec.Struct, frozen=True):
    """A sign of life and what was achieved; counts are totals since the worker joined.

    loss: mean over the samples since the last heartbeat, None if there were none.
    """

    worker: int
    incarnation: int
    steps: int = 0
    samples: int = 0
    loss: float | None = None
    rate_samples_per_second: float = 0.0
    compute_seconds: float = 0.0
    exchange_seconds: float = 0.0
    bytes_pushed: int = 0
    bytes_pulled: int = 0
    failure: str = ""


class HeartbeatReply(msgspec.Struct, frozen=True):
    """lr_factor: the schedule's factor now, for workers with a local optimizer."""

    command: Literal["continue", "stop", "rejoin"]
    lr_factor: float = 1.0


class Leave(msgspec.Struct, frozen=True):
    """An orderly goodbye; `failure` says why if it was not the user's wish."""

    worker: int
    incarnation: int
    failure: str = ""


class Stop(msgspec.Struct, frozen=True):
    """End the run in order: workers finish their step, a last checkpoint is written."""

    reason: str = ""


class WorkerStatus(msgspec.Struct, frozen=True):
    """One row of `psedge status`. staleness: of its latest push, in clocks."""

    name: str
    state: Literal["alive", "idle", "left", "dead"]
    device: str = ""
    steps: int = 0
    samples: int = 0
    loss: float | None = None
    rate_samples_per_second: float = 0.0
    staleness: int = 0
    staleness_max: int = 0
    pushes_refused: int = 0
    bytes_pushed: int = 0
    bytes_pulled: int = 0
    note: str = ""


class ServerStatus(msgspec.Struct, frozen=True):
    server: int
    url: str
    state: Literal["alive", "spare", "dead"]
    shards: tuple[int, ...] = ()
    version: int = 0


class Evaluation(msgspec.Struct, frozen=True):
    """A measurement on the test data. metrics: the config's further metrics by name."""

    samples: int
    loss: float
    accuracy: float | None = None
    metrics: dict[str, float] = {}


class Status(msgspec.Struct, frozen=True):
    """The run as the supervisor sees it.

    epoch: the present one, counted from 1; 0 where workers bring loops of their own.
    samples: seen by the servers, refused pushes included; samples_applied: without them.
    """

    run: str
    phase: Literal["waiting", "training", "finished", "stopped", "failed"]
    reason: str = ""
    folder: str = ""
    model: str = ""
    parameters: int = 0
    mode: str = ""
    seconds: float = 0.0
    epoch: int = 0
    epochs: int = 0
    epochs_done: float = 0.0
    samples: int = 0
    samples_applied: int = 0
    samples_total: int = 0
    rate_samples_per_second: float = 0.0
    train_loss: float | None = None
    evaluation: Evaluation | None = None
    best_accuracy: float | None = None
    pushes_applied: int = 0
    pushes_refused: int = 0
    staleness_max: int = 0
    lag_max: int = 0
    bytes_pushed: int = 0
    bytes_pulled: int = 0
    workers: tuple[WorkerStatus, ...] = ()
    servers: tuple[ServerStatus, ...] = ()
    notes: tuple[str, ...] = ()


HELLO = "/v1/hello"
EXPERIMENT = "/v1/experiment"
DEFINE = "/v1/define"
FROZEN = "/v1/frozen"
JOIN = "/v1/join"
CLAIM = "/v1/claim"
HEARTBEAT = "/v1/heartbeat"
LEAVE = "/v1/leave"
STATUS = "/v1/status"
STOP = "/v1/stop"
REGISTER = "/v1/register"
SERVER_HEARTBEAT = "/v1/server-heartbeat"
EXCHANGE = "/v1/exchange"
SHARD_ASSIGN = "/v1/shard/assign"
SHARD_MEMBERS = "/v1/shard/members"
SHARD_STATE = "/v1/shard/state"

#: path -> (request, reply). None: a frame, a safetensors body or raw bytes, as its handler says.
PATHS: dict[str, tuple[type[msgspec.Struct] | None, type[msgspec.Struct] | None]] = {
    HELLO: (Hello, HelloReply),
    EXPERIMENT: (ExperimentQuery, Experiment),
    DEFINE: (None, Acknowledged),
    FROZEN: (Acknowledged, None),
    JOIN: (Join, JoinReply),
    CLAIM: (Claim, ClaimReply),
    HEARTBEAT: (Heartbeat, HeartbeatReply),
    LEAVE: (Leave, Acknowledged),
    STATUS: (Acknowledged, Status),
    STOP: (Stop, Acknowledged),
    REGISTER: (Register, RegisterReply),
    SERVER_HEARTBEAT: (ServerReport, ServerHeartbeatReply),
    EXCHANGE: (None, None),
    SHARD_ASSIGN: (None, Acknowledged),
    SHARD_MEMBERS: (Members, ServerReport),
    SHARD_STATE: (Acknowledged, None),
}
