"""A run as people see it: the answer to `psedge status` and what the progress view draws."""

from __future__ import annotations

from typing import Literal

import msgspec

from psedge.protocol.replicas import Role

#: Of a run.
Phase = Literal["waiting", "training", "finished", "stopped", "failed"]
#: Those that a run does not leave again.
ENDED: tuple[Phase, ...] = ("finished", "stopped", "failed")


class WorkerStatus(msgspec.Struct, frozen=True):
    """One row of `psedge status`. staleness: of its latest push, in clocks.

    coding: codecs of its pushes and pulls, such as `q4 / q8`; coding_reason: why these.
    suspect: silent for unusually long, and not taken for dead yet.
    process, machine: pid and name of its machine, 0 and empty where unknown.
    """

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
    coding: str = ""
    coding_reason: str = ""
    note: str = ""
    suspect: bool = False
    process: int = 0
    machine: str = ""


class CopyStatus(msgspec.Struct, frozen=True):
    """A server's copy of a shard. term: of the reign that it follows.

    behind: entries of the log that it lacks; 0 for a primary.
    """

    shard: int
    role: Role
    term: int
    behind: int = 0


class ServerStatus(msgspec.Struct, frozen=True):
    """One server process. shards: of which it is the primary. copies: everything that it holds.

    spare: it holds nothing yet. suspect: silent for unusually long. version: the largest of its
    shards. process, machine: as in `WorkerStatus`.
    """

    server: int
    url: str
    state: Literal["alive", "suspect", "spare", "dead"]
    shards: tuple[int, ...] = ()
    version: int = 0
    copies: tuple[CopyStatus, ...] = ()
    process: int = 0
    machine: str = ""


class ShardStatus(msgspec.Struct, frozen=True):
    """Who holds a shard. primary: a server's number, -1 while nobody reigns.

    backups: servers in the set, which may be promoted. learners: servers with a copy in the making.
    wanted: backups that the config asks for. contributors: workers in the latest update.
    """

    shard: int
    term: int = 0
    primary: int = -1
    backups: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    wanted: int = 0
    version: int = 0
    contributors: int = 0


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """A decision of the supervisor, and why it was taken.

    number: rises by one with each event of a run. at: seconds since 1970.
    kind: `run`, `server`, `shard` or `worker`. subject: which one, in words.
    lost: work that was acknowledged is gone, or may be, as the reason says.
    """

    number: int
    at: float
    kind: str
    subject: str
    decision: str
    reason: str
    lost: bool = False


class Evaluation(msgspec.Struct, frozen=True):
    """A measurement on the test data.

    loss: None if it is no finite number, as a diverged model's, which JSON could not carry.
    metrics: the config's further metrics by name, without those that are no finite numbers.
    """

    samples: int
    loss: float | None
    accuracy: float | None = None
    metrics: dict[str, float] = {}


class Status(msgspec.Struct, frozen=True):
    """The run as the supervisor sees it.

    epoch: the present one, counted from 1; 0 where workers bring loops of their own.
    samples: seen by the servers, refused pushes included; samples_applied: without them.
    journal: the supervisor's latest decisions, the newest last.
    process, machine: of the supervisor. waiting_for: what it cannot do without, in words; empty
    while training goes on.
    """

    run: str
    phase: Phase
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
    shards: tuple[ShardStatus, ...] = ()
    notes: tuple[str, ...] = ()
    journal: tuple[Event, ...] = ()
    waiting_for: str = ""
    process: int = 0
    machine: str = ""
