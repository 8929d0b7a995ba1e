"""The run folder: resolved config, one row of figures at a time, TensorBoard events, the result.

A full disk never ends a run: rows that could not be written wait for the next write, up to a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from psedge.config import Experiment
from psedge.protocol.ports import Buffer, Clock, Storage
from psedge.supervisor import tensorboard_events
from psedge.supervisor.definition import DEFINITION_FILE
from psedge.supervisor.run_rows import (
    METRICS_FILE,
    RESULT_FILE,
    EvaluationRow,
    NoteRow,
    ProgressRow,
    Result,
    Row,
    rows_of,
)
from psedge.supervisor.write_guard import WriteGuard
from psedge.toml_text import dumps

__all__ = ["EvaluationRow", "NoteRow", "ProgressRow", "Recorder", "Result"]

#: Rows that wait for room on the disk; past that the oldest half is dropped, and said so.
WAITING_LIMIT_ROWS = 20_000


class Recorder:
    """Writes one run folder.

    notify: receives sentences for the user about what could not be written.
    """

    def __init__(self, storage: Storage, clock: Clock, notify: Callable[[str], None]) -> None:
        self._storage = storage
        self._clock = clock
        self._notify = notify
        self._guard = WriteGuard(notify)
        self._waiting: list[Row] = []
        self._waiting_events: list[Row] = []
        self._writing = asyncio.Lock()
        self._resumed_samples: int | None = None
        self._line_torn = False
        self._events_file = ""
        self._events_files = 0

    async def start(self, experiment: Experiment, resumed_samples: int | None = None) -> None:
        """Write `config.toml` and `config.json`.

        resumed_samples: the run goes on from a checkpoint there; rows of what came after it are
        dropped, since that work will be done again.
        """
        self._resumed_samples = resumed_samples
        config = msgspec.to_builtins(experiment)
        await self._guard.attempt("the config", self._write_config(config))
        if resumed_samples is not None:
            await self._guard.attempt(METRICS_FILE, self._cut_metrics(resumed_samples))

    async def define(self, body: Buffer) -> None:
        """Write down the model that a worker brought; see `definition.py`."""
        await self._guard.attempt("the model", self._storage.write_atomic(DEFINITION_FILE, [body]))

    async def go_on(self) -> list[Row]:
        """The rows of an earlier supervisor of the run, after which this one's follow."""
        try:
            content = await self._storage.read(METRICS_FILE)
        except OSError:
            return []
        self._line_torn = bool(content) and not content.endswith(b"\n")
        return list(rows_of(content))

    async def record(self, row: Row) -> None:
        """Add a row to `metrics.jsonl` and its curves to TensorBoard's events."""
        if not row.timestamp:
            row = msgspec.structs.replace(row, timestamp=self._clock.timestamp())
        for waiting in (self._waiting, self._waiting_events):
            if len(waiting) >= WAITING_LIMIT_ROWS:
                del waiting[: WAITING_LIMIT_ROWS // 2]
                self._notify("nothing could be written for too long: the oldest figures are lost")
            waiting.append(row)
        await self._flush()

    async def finish(self, result: Result) -> None:
        """Write every waiting row and `result.json`."""
        await self._flush()
        text = msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"
        await self._guard.attempt(RESULT_FILE, self._storage.write_atomic(RESULT_FILE, [text]))

    async def _write_config(self, config: dict[str, object]) -> None:
        text = msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"
        await self._storage.write_atomic("config.toml", [dumps(config).encode()])
        await self._storage.write_atomic("config.json", [text])

    async def _cut_metrics(self, samples: int) -> None:
        try:
            content = await self._storage.read(METRICS_FILE)
        except FileNotFoundError:
            return
        kept = [row for row in rows_of(content) if row.samples <= samples]
        await self._storage.write_atomic(METRICS_FILE, [_lines(kept)])

    async def _flush(self) -> None:
        """Both files take what waits for them; rows keep their order."""
        async with self._writing:
            if self._waiting or self._waiting_events:
                await self._guard.attempt("the run's figures", self._append())

    async def _append(self) -> None:
        await self._append_metrics()
        await self._append_events()

    async def _append_metrics(self) -> None:
        rows = list(self._waiting)
        if not rows:
            return
        # The torn line that a failed write leaves must not swallow the first row after it.
        lead = b"\n" if self._line_torn else b""
        self._line_torn = True
        await self._storage.append(METRICS_FILE, lead + _lines(rows))
        self._line_torn = False
        del self._waiting[: len(rows)]

    async def _append_events(self) -> None:
        rows = list(self._waiting_events)
        if not rows:
            return
        events = b"".join(_events(row) for row in rows)
        # A reader stops at the torn record that a failed write leaves: then a new file begins.
        name, self._events_file = self._events_file, ""
        if not name:
            name, head = self._new_events_file()
            events = head + events
        await self._storage.append(name, events)
        self._events_file = name
        del self._waiting_events[: len(rows)]

    def _new_events_file(self) -> tuple[str, bytes]:
        """Name and first records of an event file; its name sorts after the earlier ones."""
        now = self._clock.timestamp()
        head = tensorboard_events.file_start(now)
        if self._resumed_samples is not None and self._events_files == 0:
            head += tensorboard_events.resumed(self._resumed_samples + 1, now)
        self._events_files += 1
        return f"tensorboard/events.out.tfevents.{int(now):010d}.psedge.{self._events_files}", head


def _lines(rows: list[Row]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def _events(row: Row) -> bytes:
    if isinstance(row, NoteRow):
        return tensorboard_events.note(row.text, row.samples, row.timestamp)
    if isinstance(row, EvaluationRow):
        measured = row.evaluation
        values = {"test/loss": measured.loss, "test/accuracy": measured.accuracy}
        values |= {f"test/{name}": value for name, value in measured.metrics.items()}
    else:
        values = {
            "train/loss": row.train_loss,
            "train/epoch": row.epoch,
            "train/lr_factor": row.lr_factor,
            "train/samples_per_second": row.rate_samples_per_second,
            "pushes/applied": row.pushes_applied,
            "pushes/refused": row.pushes_refused,
            "pushes/staleness_max": row.staleness_max,
            "pushes/lag_max": row.lag_max,
            "network/bytes_pushed": row.bytes_pushed,
            "network/bytes_pulled": row.bytes_pulled,
            "cluster/workers": row.workers,
        }
    known = {tag: float(value) for tag, value in values.items() if value is not None}
    return tensorboard_events.scalars(known, row.samples, row.timestamp)
