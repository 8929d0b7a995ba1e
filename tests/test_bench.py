"""`psedge bench codecs`: every row is there, and says what it claims."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from psedge import bench_measure
from psedge.bench_measure import OPERATIONS, Bench, Row, measure, pays_below
from psedge.bench_plot import lines, picture, spread
from psedge.bench_table import Facts, link_speed, report, short_time, shown
from psedge.cli import exit_code
from psedge.compression.table import CODECS
from psedge.protocol.coding import CodingSettings
from psedge.protocol.layout import Slice, TensorSlice
from psedge.protocol.wire import HEADER_BYTES

#: Small enough to be trained in a second; the pictures are drawn on the spot.
CONFIG = """
[model]
factory = "mlp"
arguments = { in_features = 256, hidden = [16], num_classes = 6 }
[data]
dataset = "parts"
arguments = { samples = 64, size = 16 }
batch_size = 16
[optimizer]
lr = 0.01
"""

FIELDS = {
    "codec", "lossless", "operation", "elements", "memcpy_ratio", "nanoseconds_per_element",
    "bits_per_parameter", "relative_error", "pays_below_megabits_per_second",
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_measure, "_MOST_ROUNDS", 2)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """All codecs on heavy-tailed gradients of a small model with a tail of biases."""
    draw = np.random.default_rng(0)
    gradients = [draw.standard_t(2.0, 5000).astype(np.float32) for _ in range(3)]
    piece = Slice(0, 5000, (TensorSlice(0, 3200, 64), TensorSlice(3200, 4900, 100)))
    bench = Bench(piece, gradients[0], gradients, CodingSettings(), seconds=0.0)
    return measure(bench, [codec.name for codec in CODECS])


def row(
    codec: str,
    lossless: str = "none",
    operation: str = "encode",
    *,
    bits: float,
    nanoseconds: float,
) -> Row:
    return Row(codec, lossless, operation, 1_000_000, 2 * nanoseconds, nanoseconds, bits, 0.1, 50.0)


def group(codec: str, lossless: str = "none", *, bits: float, nanoseconds: float) -> list[Row]:
    return [
        row(codec, lossless, operation, bits=bits, nanoseconds=nanoseconds)
        for operation in OPERATIONS
    ]


def test_every_codec_has_every_operation(rows: list[Row]) -> None:
    assert {row.codec for row in rows} == {codec.name for codec in CODECS}
    for codec in CODECS:
        plain = [row for row in rows if row.codec == codec.name and row.lossless == "none"]
        assert tuple(row.operation for row in plain) == OPERATIONS
    for row in rows:
        assert row.elements == 5000
        assert row.memcpy_ratio > 0
        assert row.nanoseconds_per_element > 0


def test_bits_and_errors_are_those_of_the_formats(rows: list[Row]) -> None:
    found = {row.codec: row for row in rows if row.lossless == "none"}
    header = 8 * HEADER_BYTES / 5000
    tail = 32 * 100 / 5000
    assert found["identity"].bits_per_parameter == pytest.approx(32 + header)
    assert found["float16"].bits_per_parameter == pytest.approx(header + tail + 16 * 0.98)
    # 20 buckets of 256 four-bit codes with a scale of two bytes, the last one padded.
    assert found["q4"].bits_per_parameter == pytest.approx(header + tail + 8 * 20 * 130 / 5000)
    assert found["identity"].relative_error == 0
    assert 0 < found["q8"].relative_error < found["q4"].relative_error < 1
    assert found["top-k"].bits_per_parameter < 2


def test_a_codec_pays_below_the_link_on_which_both_ways_take_the_same_time() -> None:
    # 24 bits saved for 6 ns more: 4 bits a nanosecond are 4 Gb/s.
    assert pays_below(32, 1, 8, 7) == pytest.approx(4000)
    assert pays_below(32, 1, 8, 1) == math.inf
    assert pays_below(32, 1, 33, 0.5) == 0


def test_identity_is_what_the_others_are_measured_against(rows: list[Row]) -> None:
    plain = {row.codec: row for row in rows if row.lossless == "none"}
    assert plain["identity"].pays_below_megabits_per_second == 0
    assert plain["q8"].pays_below_megabits_per_second > 1


def test_a_lossless_stage_is_shown_where_it_saves() -> None:
    plain = group("identity", bits=32, nanoseconds=1)
    useless = group("identity", "lz4", bits=31.5, nanoseconds=2)
    useful = group("identity", "zstd", bits=20, nanoseconds=9)
    assert shown([*plain, *useless, *useful]) == [plain, useful]


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_the_terminal(rows: list[Row], width: int) -> None:
    facts = Facts("resnet32 on CIFAR-10", 20, 0.21, "Raspberry Pi 5 Model B Rev 1.0", "neon")
    console = Console(file=io.StringIO(), width=width)
    console.print(report(rows, facts, width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in text.splitlines())
    assert "210 ms a training step" in text
    assert "neon kernels" in text
    table = text.splitlines()
    for codec in CODECS:
        line = next(line for line in table if line.startswith(f" {codec.name} "))
        assert "…" not in line


@pytest.mark.parametrize(
    ("speed", "text"),
    [
        (math.inf, "always"), (0.0, "–"), (0.52, "520 kb/s"), (5.0, "5.0 Mb/s"), (94.0, "94 Mb/s"),
        (999.9, "1.0 Gb/s"), (12_345.0, "12 Gb/s"), (2e6, "> 100 Gb/s"),
    ],
)  # fmt: skip
def test_link_speeds_as_people_say_them(speed: float, text: str) -> None:
    assert link_speed(speed) == text


def test_times_as_people_say_them() -> None:
    assert [short_time(x) for x in (2.04, 0.21, 85e-6, 0.9999)] == ["2 s", "210 ms", "85 µs", "1 s"]


def test_a_line_takes_the_stage_that_suits_the_link() -> None:
    plain = group("q4", bits=4, nanoseconds=1)
    staged = group("q4", "zstd", bits=3, nanoseconds=10)
    (line,) = lines([*plain, *staged])
    assert line.label == "q4 + zstd"
    # 1,000,000 parameters: 3 bits at 1 Mb/s and twice 10 ns, or 4 bits at 10 Gb/s and twice 1 ns.
    assert line.milliseconds(1.0) == pytest.approx(3000 + 20)
    assert line.milliseconds(10_000.0) == pytest.approx(0.4 + 2)


def test_labels_are_moved_apart_and_no_further() -> None:
    assert spread([0.1, 0.5], 0.05) == [0.1, 0.5]
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert spread([0.99, 1.0, 0.2], 0.1) == pytest.approx([0.9, 1.0, 0.2])


def test_the_picture_is_one(rows: list[Row]) -> None:
    image = Image.open(io.BytesIO(picture(rows, "a model on data of $5", 0.2)))
    image.load()
    assert image.format == "PNG"
    assert image.width > 1000
    colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ((0x19, 0x71, 0xC2), (0xC2, 0x25, 0x5C)):
        assert (colours == colour).all(axis=1).any(), "the lines of q8 and top-k"


def bench(folder: Path, *arguments: str, config: str = CONFIG) -> int:
    path = folder / "small.toml"
    path.write_text(config)
    return exit_code(["bench", "codecs", str(path), "--steps", "3", "--device", "cpu", *arguments])


def test_json_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tmp_path, "--json", "--codec", "q4") == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert all(set(row) == FIELDS for row in found)
    assert {row["codec"] for row in found} == {"identity", "q4"}
    assert {row["operation"] for row in found} == set(OPERATIONS)
    assert list(tmp_path.glob("*.png")) == []


def test_a_table_and_a_picture_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "here.png"
    assert bench(tmp_path, "--codec", "sign", "--out", str(out)) == 0
    text = capsys.readouterr().out
    assert "mlp on" in text
    assert "sign" in text
    assert f"wrote {out}" in text
    assert Image.open(out).format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "config", "said"),
    [
        (["--codec", "zip"], CONFIG, "there is no such codec"),
        (["--out", "picture.svg"], CONFIG, "must end in .png"),
        (["--out", "no/such/folder/a.png"], CONFIG, "there is no folder"),
        (["--synthetic"], CONFIG, "nobody but the data set parts itself"),
        ([], CONFIG.replace("lr = 0.01", "lr = 1e30"), "lower optimizer.lr"),
        ([], "[optimizer]\nlr = 0.1", "needs the sections [model] and [data]"),
        ([], CONFIG.replace('"parts"', '"cifar10"').replace("arguments = { samples", "#"),
         "--synthetic"),
        (["--set", "optimizer.lrr=1"], CONFIG, "optimizer"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    config: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bench(tmp_path, "--data", str(tmp_path), *arguments, config=config) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_random_pictures_stand_in_for_data_that_are_not_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIG.replace('"parts"', '"fashion-mnist"').replace("arguments = { samples", "#")
    config = config.replace("in_features = 256", "in_features = 784").replace(
        "num_classes = 6", "num_classes = 10"
    )
    arguments = ["--synthetic", "--data", str(tmp_path), "--json", "--codec", "identity"]
    assert bench(tmp_path, *arguments, config=config) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("arguments", [["bench", "--help"], ["bench", "codecs", "--help"]])
def test_the_command_teaches(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(arguments) == 0
    text = capsys.readouterr().out
    assert "psedge bench" in text
    assert "Example" in text
