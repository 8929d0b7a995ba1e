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
from psedge.protocol.replicas import (
    REPLICA_APPEND,
    REPLICA_INSTALL,
    REPLICA_REIGN,
    REPLICA_SEAL,
    SET_CHANGE,
    Appended,
    Reign,
    ReplicaState,
    Seal,
    SetChange,
)
from psedge.protocol.shards import (
    LocalOptimizer,
    Members,
    OptimizerSettings,
    ServerReport,
    SyncSettings,
)
from psedge.protocol.status import Phase, Status


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
    """run: name of the run's folder. identity: tells this run from all others, resumed or not."""

    psedge: str
    wire: int
    supervisor: bool
    run: str
    identity: str = ""


class Register(msgspec.Struct, frozen=True):
    """A server joins: where it listens, as seen from itself.

    lossless: names of the lossless stages that it can undo. store: identity of the folder that it
    keeps logs in, empty if it keeps none. run: identity of the run whose logs lie there, empty for
    a new folder. replicas: what it holds. process, machine: pid and name of its machine.
    """

    psedge: str
    wire: int
    host: str
    port: int
    incarnation: int
    lossless: tuple[str, ...] = ()
    store: str = ""
    run: str = ""
    replicas: tuple[ReplicaState, ...] = ()
    process: int = 0
    machine: str = ""


class RegisterReply(msgspec.Struct, frozen=True):
    """run: identity of the run, for the folder that the server keeps logs in.

    lease_seconds: how long the server may act for its shards from when it sent this request.
    """

    server: int
    lease_seconds: float
    heartbeat_seconds: float
    run: str = ""


class ServerHeartbeatReply(msgspec.Struct, frozen=True):
    """command: `register` when the supervisor does not know the server (it was restarted).

    lease_seconds: renewed from when the heartbeat was sent. reigns: those that the server's report
    shows it has not heard of. drop: shards of which it holds a copy that nobody wants.
    """

    command: Literal["continue", "stop", "register"]
    lease_seconds: float = 0.0
    reigns: tuple[Reign, ...] = ()
    drop: tuple[int, ...] = ()


class ShardAddress(msgspec.Struct, frozen=True):
    """Where a shard's primary is. url: empty means at the supervisor's own address.

    tensors: the matrices in its range of the parameter vector, see `Slice`.
    term: of the primary; every request to it names the term.
    """

    shard: int
    url: str
    start: int
    stop: int
    buffers_start: int
    buffers_stop: int
    tensors: tuple[TensorSlice, ...] = ()
    term: int = 0

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
    phase: Phase
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


class Place(msgspec.Struct, frozen=True):
    """What one living process at a time holds, as a lock on its machine proves.

    identity: of the place, the same for all who hold it one after the other; nobody holds another
    place of this identity. holder: counts them, from 1.
    """

    identity: str
    holder: int


class Join(msgspec.Struct, frozen=True):
    """A worker comes in.

    layout_digest: of the model as this worker built it.
    local_samples: size of its own data set where placement is local, else None.
    loader: whether it wants index ranges from the supervisor (`psedge worker`) or has a loop of
    its own (`psedge.connect`).
    place: whoever joined from the same place with a lower holder is dead; None: nothing is proven.
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
    process: int = 0
    machine: str = ""
    place: Place | None = None


class JoinReply(msgspec.Struct, frozen=True):
    """coding: how pushes and pulls travel.

    lossless: names of the lossless stages that every server of the run can undo.
    lr_factor: the schedule's factor now; it matters to workers only with a local optimizer.
    map_revision: of `shards`, see `ShardsQuery`.
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
    map_revision: int = 0


class ShardsQuery(msgspec.Struct, frozen=True):
    """Where are the primaries now? A long poll: answered when the map is newer than `revision`.

    suspects: shards whose primary, as of `revision`, does not answer or refuses: the supervisor
    looks after them at once.
    """

    worker: int
    incarnation: int
    revision: int
    suspects: tuple[int, ...] = ()


class ShardsReply(msgspec.Struct, frozen=True):
    """The newest map; its revision is the asked one if nothing has changed for a while."""

    revision: int
    shards: tuple[ShardAddress, ...]


class Claim(msgspec.Struct, frozen=True):
    """A worker asks for its next range of samples; a long poll.

    idle: it has pushed all it had, so it holds nobody back while it waits.
    claim: number of the claim under this incarnation, from 1. It rises by one with every range
    that the worker has taken over, and a worker never has two claims of different numbers open.
    So a claim that repeats the number of the latest range handed out gets that range again: its
    answer was lost. Both sides then agree on the order of the worker's ranges. For an older number
    nothing is handed out: that claim was overtaken by its own repetition. 0 is not counted.
    """

    worker: int
    incarnation: int
    idle: bool
    claim: int = 0


class ClaimReply(msgspec.Struct, frozen=True):
    """state: `range` with positions start..stop of the epoch's order; `wait`: ask again;
    `done`: no data is left in this run; `stop`: the run ends now; `rejoin`: not a member.

    reserve: samples left at which the worker is to ask for more; 0: when half of this range is.
    With `wait`, which else tells a worker that is not idle to ask no more until it is: others have
    to ask before it, so it is to ask again with its next step; 0 there: no samples are free.
    """

    state: Literal["range", "wait", "done", "stop", "rejoin"]
    epoch: int = 0
    start: int = 0
    stop: int = 0
    reserve: int = 0


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
    """lr_factor: the schedule's factor now, for workers with a local optimizer.

    map_revision: of the shards' addresses; ask for them if it is newer than the known ones.
    """

    command: Literal["continue", "stop", "rejoin"]
    lr_factor: float = 1.0
    map_revision: int = 0


#: `worker` of one that has not been told its number.
NO_NUMBER = -1


class Leave(msgspec.Struct, frozen=True):
    """An orderly goodbye; `failure` says why if it was not the user's wish.

    worker: NO_NUMBER of one that has asked to join and heard no number; then name: that it gave.
    """

    worker: int
    incarnation: int
    failure: str = ""
    name: str = ""


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
SHARDS = "/v1/shards"
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
    SHARDS: (ShardsQuery, ShardsReply),
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
    REPLICA_APPEND: (None, Appended),
    REPLICA_INSTALL: (None, Appended),
    REPLICA_SEAL: (Seal, ReplicaState),
    REPLICA_REIGN: (Reign, ReplicaState),
    SET_CHANGE: (SetChange, Reign),
}
