"""The run folder: readable by people, programs and TensorBoard, and patient with a full disk."""

from __future__ import annotations

import asyncio
import errno
import json
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from psedge.config import Experiment
from psedge.protocol.disk import Disk
from psedge.protocol.ports import Buffer
from psedge.protocol.status import Evaluation
from psedge.supervisor import recorder as recorder_module
from psedge.supervisor.recorder import EvaluationRow, NoteRow, ProgressRow, Recorder, Result
from psedge.supervisor.run_rows import rows_of
from psedge.toml_config import load_config


class StillClock:
    """A clock whose wall time stands."""

    def now(self) -> float:
        return 5.0

    def timestamp(self) -> float:
        return 1_700_000_000.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a recorder never waits")


class FullDisk(Disk):
    """While full it writes half of what such files are given and then fails, as real ones do."""

    full = ""

    async def append(self, path: str, data: Buffer) -> None:
        if self.full and self.full in path:
            await super().append(path, bytes(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        await super().append(path, data)


def _progress(samples: int) -> ProgressRow:
    return ProgressRow(samples, samples / 100, samples / 50, train_loss=1 / samples, workers=3)


def _evaluation(samples: int) -> EvaluationRow:
    measured = Evaluation(360, 0.25, 0.5, {"top-5": 0.75})
    return EvaluationRow(samples, samples / 100, samples / 50, measured)


def _result() -> Result:
    return Result(
        run="demo", phase="finished", reason="", test_accuracy=0.97, test_loss=0.1,
        samples_applied=100, samples_per_second=50.0, seconds=2.0, pushes_applied=10,
        pushes_refused=0, bytes_pushed=1, bytes_pulled=2, staleness_max=3, lag_max=4, workers=3,
        servers=2,
    )  # fmt: skip


def _events(folder: Path) -> list[Event]:
    """All events as TensorBoard reads them: file by file, each until its first torn record."""
    events = []
    for path in sorted((folder / "tensorboard").iterdir()):
        content = path.read_bytes()
        while len(content) >= 12:
            (length,) = struct.unpack("<Q", content[:8])
            if len(content) < 16 + length:
                break
            assert struct.unpack("<I", content[8:12])[0] == masked_crc32c(content[:8])
            data = content[12 : 12 + length]
            assert struct.unpack("<I", content[12 + length : 16 + length])[0] == masked_crc32c(data)
            events.append(Event.FromString(data))
            content = content[16 + length :]
    return events


def _curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    """Points (samples, value) of one curve, without those that a resume took back."""
    points: list[tuple[int, float]] = []
    for event in _events(folder):
        if event.HasField("session_log"):
            points = [point for point in points if point[0] < event.step]
        points += [
            (event.step, round(value.simple_value, 6))
            for value in event.summary.value
            if value.tag == tag
        ]
    return points


def test_the_config_is_stored_resolved_and_can_be_run_again(tmp_path: Path) -> None:
    experiment = load_config({"name": "demo", "optimizer": {"lr": 0.5}}, ["cluster.workers=4"])
    asyncio.run(Recorder(Disk(tmp_path), StillClock(), pytest.fail).start(experiment))
    assert load_config(tmp_path / "config.toml") == experiment
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["optimizer"]["lr"] == 0.5
    assert stored["cluster"]["workers"] == 4


def test_rows_reach_the_file_and_tensorboard(tmp_path: Path) -> None:
    rows = [_progress(10), _evaluation(10), NoteRow(10, 0.1, "pi died"), _progress(20)]

    async def run() -> None:
        recorder = Recorder(Disk(tmp_path), StillClock(), pytest.fail)
        await recorder.start(Experiment())
        for row in rows:
            await recorder.record(row)

    asyncio.run(run())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["progress", "evaluation", "note", "progress"]
    assert {line["timestamp"] for line in lines} == {1_700_000_000.0}
    assert lines[1]["evaluation"]["accuracy"] == 0.5
    events = _events(tmp_path)
    assert events[0].file_version == "brain.Event:2"
    assert {event.wall_time for event in events} == {1_700_000_000.0}
    assert _curve(tmp_path, "train/loss") == [(10, 0.1), (20, 0.05)]
    assert _curve(tmp_path, "test/accuracy") == [(10, 0.5)]
    assert _curve(tmp_path, "test/top-5") == [(10, 0.75)]


def test_what_is_unknown_is_no_point(tmp_path: Path) -> None:
    async def run() -> None:
        recorder = Recorder(Disk(tmp_path), StillClock(), pytest.fail)
        await recorder.record(ProgressRow(10, 0.1, 0.2))
        await recorder.record(EvaluationRow(10, 0.1, 0.2, Evaluation(5, 0.5)))

    asyncio.run(run())
    assert _curve(tmp_path, "test/loss") == [(10, 0.5)]
    assert _curve(tmp_path, "train/loss") == []
    assert _curve(tmp_path, "test/accuracy") == []


def test_the_result_has_what_programs_look_for(tmp_path: Path) -> None:
    asyncio.run(Recorder(Disk(tmp_path), StillClock(), pytest.fail).finish(_result()))
    stored = json.loads((tmp_path / "result.json").read_text())
    wanted = (
        "test_accuracy test_loss samples_applied samples_per_second seconds pushes_applied "
        "pushes_refused bytes_pushed bytes_pulled staleness_max lag_max workers servers"
    )
    assert set(wanted.split()) <= stored.keys()
    assert stored["test_accuracy"] == 0.97


@pytest.mark.parametrize("which", ["metrics.jsonl", "tfevents"])
def test_a_full_disk_is_said_once_and_no_row_is_lost(tmp_path: Path, which: str) -> None:
    notes: list[str] = []
    disk = FullDisk(tmp_path)

    async def run() -> None:
        recorder = Recorder(disk, StillClock(), notes.append)
        await recorder.record(_progress(10))
        disk.full = which
        await recorder.record(_progress(20))
        await recorder.record(_progress(30))
        disk.full = ""
        await recorder.record(_progress(40))
        await recorder.finish(_result())

    asyncio.run(run())
    assert len(notes) == 2
    assert "the disk is full" in notes[0]
    assert "training goes on" in notes[0]
    assert "works again" in notes[1]
    rows = list(rows_of((tmp_path / "metrics.jsonl").read_bytes()))
    assert sorted({row.samples for row in rows}) == [10, 20, 30, 40]
    assert sorted({step for step, _ in _curve(tmp_path, "train/loss")}) == [10, 20, 30, 40]
    assert (tmp_path / "result.json").exists()


def test_rows_that_wait_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "WAITING_LIMIT_ROWS", 4)
    notes: list[str] = []
    disk = FullDisk(tmp_path)
    disk.full = "metrics.jsonl"

    async def run() -> None:
        recorder = Recorder(disk, StillClock(), notes.append)
        for samples in range(1, 8):
            await recorder.record(_progress(samples))
        disk.full = ""
        await recorder.finish(_result())

    asyncio.run(run())
    rows = list(rows_of((tmp_path / "metrics.jsonl").read_bytes()))
    assert {5, 6, 7} <= {row.samples for row in rows}
    assert any("oldest figures are lost" in note for note in notes)


def test_a_resume_drops_what_will_be_done_again(tmp_path: Path) -> None:
    async def run() -> None:
        recorder = Recorder(Disk(tmp_path), StillClock(), pytest.fail)
        for samples in (10, 20, 30):
            await recorder.record(_progress(samples))
        await recorder.record(_evaluation(20))
        again = Recorder(Disk(tmp_path), StillClock(), pytest.fail)
        await again.start(Experiment(), resumed_samples=20)
        await again.record(_progress(25))

    asyncio.run(run())
    rows = list(rows_of((tmp_path / "metrics.jsonl").read_bytes()))
    assert [row.samples for row in rows] == [10, 20, 20, 25]
    assert [step for step, _ in _curve(tmp_path, "train/loss")] == [10, 20, 25]


def test_rows_at_the_same_time_keep_whole_lines(tmp_path: Path) -> None:
    async def run() -> None:
        recorder = Recorder(Disk(tmp_path), StillClock(), pytest.fail)
        await asyncio.gather(*(recorder.record(_progress(samples)) for samples in range(1, 30)))

    asyncio.run(run())
    rows = list(rows_of((tmp_path / "metrics.jsonl").read_bytes()))
    assert [row.samples for row in rows] == list(range(1, 30))
