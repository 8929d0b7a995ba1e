"""What the record of a run is made of: rows of `metrics.jsonl`, and `result.json`."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from psedge.protocol.status import Evaluation, WorkerStatus

METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"


class ProgressRow(msgspec.Struct, frozen=True, tag_field="kind", tag="progress"):
    """How far training is.

    samples: visited; samples_applied: without those of refused pushes.
    seconds: of training, earlier processes of a resumed run included.
    epoch: passes over the data so far, as a fraction.
    train_loss: mean since the row before, None if nothing was pushed in between.
    contributors: workers whose gradients are in the latest update, of the shard with the fewest.
    timestamp: seconds since 1970; the recorder fills in a 0.
    """

    samples: int
    seconds: float
    epoch: float
    train_loss: float | None = None
    rate_samples_per_second: float = 0.0
    lr_factor: float = 1.0
    pushes_applied: int = 0
    pushes_refused: int = 0
    staleness_max: int = 0
    lag_max: int = 0
    bytes_pushed: int = 0
    bytes_pulled: int = 0
    workers: int = 0
    timestamp: float = 0.0
    contributors: int = 0
    samples_applied: int = 0


class EvaluationRow(msgspec.Struct, frozen=True, tag_field="kind", tag="evaluation"):
    """A measurement on the test data, of the model as it was after `samples`."""

    samples: int
    seconds: float
    epoch: float
    evaluation: Evaluation
    timestamp: float = 0.0


class NoteRow(msgspec.Struct, frozen=True, tag_field="kind", tag="note"):
    """Something that happened: a worker died, the disk was full."""

    samples: int
    seconds: float
    text: str
    timestamp: float = 0.0


Row = ProgressRow | EvaluationRow | NoteRow


class Result(msgspec.Struct, frozen=True):
    """What a run came to.

    samples_applied: whose gradients changed the model; samples_seen: refused ones too.
    workers, servers: how many took part. worker_rows: each worker's own figures.
    """

    run: str
    phase: str
    reason: str
    test_accuracy: float | None
    test_loss: float | None
    samples_applied: int
    samples_per_second: float
    seconds: float
    pushes_applied: int
    pushes_refused: int
    bytes_pushed: int
    bytes_pulled: int
    staleness_max: int
    lag_max: int
    workers: int
    servers: int
    samples_seen: int = 0
    epochs: float = 0.0
    best_accuracy: float | None = None
    test_metrics: dict[str, float] = {}
    model: str = ""
    parameters: int = 0
    mode: str = ""
    seed: int = 0
    resumed_from_samples: int | None = None
    psedge: str = ""
    worker_rows: tuple[WorkerStatus, ...] = ()


_ROWS = msgspec.json.Decoder(Row)


def rows_of(content: bytes) -> Iterator[Row]:
    """The rows of a metrics file; a line that a crash or a full disk cut short is passed over."""
    for line in content.splitlines():
        try:
            yield _ROWS.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
