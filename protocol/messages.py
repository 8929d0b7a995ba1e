"""Every control message, as a frozen struct that travels as JSON.

The path a request is posted to names its type; `PATHS` at the end lists them. Exchanges between
workers and shards are not here: they are frames, in `wire.py`. Bulk state (a shard's arrays, a
model's tensors) travels as one safetensors file, whose metadata holds the struct under the key
`message`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from psedge.protocol.coding import CodingSettings
from psedge.protocol.layout import Layout, Slice, TensorSlice
from psedge.protocol.shards import (
    LocalOptimizer,
    Members,
    OptimizerSettings,
    ServerReport,
    SyncSettings,
)
from psedge.protocol.status import Status


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


class Register(msgspec.Struct, frozen=True):
    """A server joins: where it listens, as seen from itself.

    lossless: names of the lossless stages that it can undo.
    """

    psedge: str
    wire: int
    host: str
    port: int
    incarnation: int
    lossless: tuple[str, ...] = ()


class RegisterReply(msgspec.Struct, frozen=True):
    server: int
    lease_seconds: float
    heartbeat_seconds: float


class ServerHeartbeatReply(msgspec.Struct, frozen=True):
    """command: `register` when the supervisor does not know the server (it was restarted)."""

    command: Literal["continue", "stop", "register"]


class ShardAddress(msgspec.Struct, frozen=True):
    """Where a shard lives. url: empty means at the supervisor's own address.

    tensors: the matrices in its range of the parameter vector, see `Slice`.
    """

    shard: int
    url: str
    start: int
    stop: int
    buffers_start: int
    buffers_stop: int
    tensors: tuple[TensorSlice, ...] = ()

    @property
    def slice(self) -> Slice:
        return Slice(self.start, self.stop - self.start, self.tensors)


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


class JoinReply(msgspec.Struct, frozen=True):
    """coding: how pushes and pulls travel.

    lossless: names of the lossless stages that every server of the run can undo.
    lr_factor: the schedule's factor now; it matters to workers only with a local optimizer.
    """

    worker: int
    name: str
    shards: tuple[ShardAddress, ...]
    sync: SyncSettings
    coding: CodingSettings
    lossless: tuple[str, ...]
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
    coding: what travels now in either direction, such as `q4 / q8`; coding_reason: why.
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
    coding: str = ""
    coding_reason: str = ""
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
    """End the run in order: workers finish their step, a last checkpoint is written.

    failed: the run did not end because somebody wished so; `reason` says what went wrong.
    """

    reason: str = ""
    failed: bool = False


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
