"""A run as people see it: the answer to `psedge status` and what the progress view draws."""

from __future__ import annotations

from typing import Literal

import msgspec


class WorkerStatus(msgspec.Struct, frozen=True):
    """One row of `psedge status`. staleness: of its latest push, in clocks.

    coding: codecs of its pushes and pulls, such as `q4 / q8`; coding_reason: why these.
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


class ServerStatus(msgspec.Struct, frozen=True):
    server: int
    url: str
    state: Literal["alive", "spare", "dead"]
    shards: tuple[int, ...] = ()
    version: int = 0


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
