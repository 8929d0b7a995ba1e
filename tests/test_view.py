"""The picture of a run: what it says, how it fits, and the figures in it."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console, RenderableType

from psedge.protocol.status import Evaluation, ServerStatus, Status, WorkerStatus
from psedge.terminal import figures
from psedge.terminal.screen import PlainScreen
from psedge.terminal.summary import summary
from psedge.terminal.view import History, plain_line, render

WORKERS = (
    WorkerStatus("worker-1", "alive", "Intel Xeon", 220, 7040, 0.0812, 512.3, 1),
    WorkerStatus("worker-2", "idle", "Raspberry Pi 4 Model B Rev 1.4", 72, 2304, 0.09, 171.0, 0),
    WorkerStatus("a-worker-with-a-very-long-name-indeed", "dead", "Jetson Nano", 12, 384),
)
STATUS = Status(
    run="digits-20260131-120000",
    phase="training",
    model="digits-cnn",
    mode="ssp",
    seconds=12.0,
    epoch=7,
    epochs=12,
    samples=8_000,
    samples_total=16_000,
    rate_samples_per_second=683.3,
    train_loss=0.0834,
    evaluation=Evaluation(samples=360, loss=0.1234, accuracy=0.9722),
    best_accuracy=0.975,
    staleness_max=3,
    bytes_pushed=28_400_000,
    bytes_pulled=28_300_000,
    workers=WORKERS,
    servers=(
        ServerStatus(0, "http://127.0.0.1:7700", "alive", (0,), 812),
        ServerStatus(1, "http://127.0.0.1:7701", "dead", (1,), 811),
    ),
    notes=("a-worker-with-a-very-long-name-indeed is silent for 10 s and taken for dead",),
)


def drawn(picture: RenderableType, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(picture)
    return capture.get()


def test_the_picture_says_everything_that_matters() -> None:
    text = drawn(render(STATUS), 100)
    for said in (
        "digits-20260131-120000",
        "digits-cnn · ssp · training",
        "epoch 7 of 12",
        "50 %",
        "8,000 of 16,000 samples · 683 samples/s · 0:12 elapsed",
        "97.2 %",
        "best 97.5 %",
        "test loss 0.123",
        "● worker-1",
        "512",
        "3 max",
        "28.4 MB",
        "28.3 MB",
        "server 0 127.0.0.1:7700 shard 0 · 812 updates",
        "server 1 dead",
        "taken for dead",
    ):
        assert said in text, said


@pytest.mark.parametrize("width", [60, 80, 91, 92, 96, 100, 120, 200])
@pytest.mark.parametrize("phase", ["waiting", "training", "finished", "stopped", "failed"])
def test_no_line_is_wider_than_the_terminal(width: int, phase: str) -> None:
    status = msgspec.structs.replace(STATUS, phase=phase, pushes_refused=2)
    lines = drawn(render(status), width).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_figures_are_never_cut(width: int) -> None:
    text = drawn(render(msgspec.structs.replace(STATUS, pushes_refused=12_345)), width)
    heading = next(line for line in text.splitlines() if "samples/s" in line and "state" in line)
    assert "…" not in heading
    assert "12,345" in text
    assert ("device" in heading) == (width == 120)


@pytest.mark.parametrize("width", [80, 140])
def test_the_codecs_in_use_are_named(width: int) -> None:
    workers = tuple(
        WorkerStatus(f"pi-{index}", "alive", coding="q4 / q8" if index else "ecsq+zstd / q4")
        for index in range(3)
    )
    text = drawn(render(msgspec.structs.replace(STATUS, workers=workers)), width)
    assert "push / pull" in text
    assert "ecsq+zstd / q4" in text
    assert text.count("q4 / q8") == (1 if width == 80 else 2)
    assert ("(2 workers)" in text) == (width == 80)
    alike = msgspec.structs.replace(STATUS, workers=workers[1:])
    assert "(2 workers)" not in drawn(render(alike), 80)


def test_a_crowd_of_workers_is_counted() -> None:
    crowd = tuple(WorkerStatus(f"pi-{index:03d}", "alive") for index in range(200))
    text = drawn(render(msgspec.structs.replace(STATUS, workers=crowd), rows=5), 80)
    assert "pi-004" in text
    assert "pi-005" not in text
    assert "and 195 more" in text


def test_a_run_that_waits_says_for_what() -> None:
    status = Status(run="r", phase="waiting", reason="1 more server")
    assert "1 more server" in drawn(render(status), 80)
    assert plain_line(status, History()) == "waiting: 1 more server"


def test_a_run_without_an_end_shows_no_bar() -> None:
    status = Status(run="r", phase="training", samples=640, rate_samples_per_second=64.0)
    text = drawn(render(status), 80)
    assert "640 samples · 64 samples/s" in text
    assert "%" not in text


def test_the_time_left_follows_the_recent_pace() -> None:
    history = History()
    for second in range(5):
        history.observe(Status(run="r", phase="training", seconds=second, samples=100 * second))
    now = Status(run="r", phase="training", seconds=4.0, samples=400, samples_total=1000)
    assert history.seconds_left(now) == pytest.approx(6.0)
    assert History().seconds_left(now) is None
    waiting = msgspec.structs.replace(now, waiting_for="a worker")
    assert history.seconds_left(waiting) is None
    finished = msgspec.structs.replace(now, phase="finished")
    assert history.seconds_left(finished) is None


def test_the_curves_gather_each_measurement_once() -> None:
    history = History()
    first = Evaluation(samples=360, loss=1.0, accuracy=0.5)
    second = Evaluation(samples=360, loss=0.5, accuracy=0.8)
    for samples, evaluation in ((1, None), (2, first), (3, first), (4, second)):
        history.observe(
            Status(
                run="r",
                phase="training",
                samples=samples,
                train_loss=1 / samples,
                evaluation=evaluation,
            )
        )
    assert history.accuracies == [0.5, 0.8]
    assert history.losses == [1, 1 / 2, 1 / 3, 1 / 4]


def test_a_long_run_keeps_a_bounded_history() -> None:
    history = History()
    for samples in range(10_000):
        status = Status(
            run="r",
            phase="training",
            seconds=samples / 4,
            samples=samples,
            train_loss=float(samples),
        )
        history.observe(status)
    assert len(history.losses) <= 2000
    assert history.losses[-1] == 9999
    assert history.losses == sorted(history.losses)


def test_plain_lines_come_once_a_second_and_notes_once() -> None:
    console = Console(width=200, file=io.StringIO(), color_system=None)
    screen = PlainScreen(console)
    with console.capture() as capture:
        for step in range(9):
            seconds = step / 4
            status = msgspec.structs.replace(STATUS, seconds=60 * seconds, samples=8_000 + step)
            screen.show(status, now=seconds)
        screen.show(msgspec.structs.replace(STATUS, phase="finished"), now=2.1)
    lines = capture.get().splitlines()
    assert [line.split(" | ")[0] for line in lines if " | " in line] == [
        "0:00",
        "1:00",
        "2:00",
        "finished",
    ]
    assert [line for line in lines if line.startswith("note: ")] == [f"note: {STATUS.notes[0]}"]
    assert "epoch 7/12 | 50 % | 683 samples/s | loss 0.083 | test accuracy 97.2 %" in lines[1]


def test_the_summary_tells_result_files_and_next_step(tmp_path) -> None:
    result = {
        "run": "digits",
        "phase": "finished",
        "test_accuracy": 0.9778,
        "best_accuracy": 0.9806,
        "test_loss": 0.07131,
        "test_metrics": {"top5": 0.999},
        "samples_applied": 14_370,
        "samples_per_second": 1012.4,
        "seconds": 74.0,
        "pushes_applied": 901,
        "pushes_refused": 2,
        "bytes_pushed": 12_300_000,
        "bytes_pulled": 12_200_000,
        "staleness_max": 3,
        "lag_max": 12,
        "workers": 3,
        "servers": 1,
    }
    text = drawn(summary(result, tmp_path, tmp_path / "learning-curve.png"), 300)
    for said in (
        "digits finished after 1:14",
        "97.8 %  best 98.1 %",
        "0.0713",
        "0.9990",
        "14,370 samples, 1,012 samples/s",
        "901 applied, 2 refused",
        "staleness 3, lag 12",
        "12.3 MB pushed, 12.2 MB pulled",
        "1 server, 3 workers",
        str(tmp_path / "learning-curve.png"),
        f"psedge export {tmp_path}",
    ):
        assert said in text, said
    early = drawn(summary({**result, "phase": "stopped"}, tmp_path, None), 300)
    assert "--resume" not in early, "there is no checkpoint to resume from"
    checkpoint = tmp_path / "checkpoints" / "000000000064" / "checkpoint.json"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    stopped = drawn(summary({**result, "phase": "stopped"}, tmp_path, None), 300)
    assert f"--out {tmp_path} --resume" in stopped


@pytest.mark.parametrize("phase", ["finished", "stopped"])
def test_a_run_of_python_objects_is_offered_no_command_that_cannot_work(
    phase: str, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoints" / "000000000064" / "checkpoint.json"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    text = drawn(summary({"phase": phase}, tmp_path, None, of_objects=True), 300)
    assert "--resume" not in text
    assert "psedge eval" not in text
    assert (f"psedge export {tmp_path}" in text) == (phase == "finished")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_951, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (5e15, "5000 TB"),
    ],
)
def test_data_sizes(size: float, text: str) -> None:
    assert figures.data_size(size) == text


def test_durations() -> None:
    assert [figures.duration(s) for s in (-1, 0, 7.4, 59.6, 3600, 3765)] == [
        "0:00",
        "0:00",
        "0:07",
        "1:00",
        "1:00:00",
        "1:02:45",
    ]


def test_sparklines() -> None:
    assert figures.sparkline([], 10) == ""
    assert figures.sparkline([float("nan")], 10) == ""
    assert figures.sparkline([3, 3], 10) == "▁▁"
    assert figures.sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert figures.sparkline(list(range(1000)), 8) == "▁▂▃▄▅▆▇█"
