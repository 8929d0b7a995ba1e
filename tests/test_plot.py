"""Learning curves: there for every kind of run, and true to the rows."""

from __future__ import annotations

import io
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from psedge.plot import learning_curve, plot_run
from psedge.protocol.errors import ConfigError
from psedge.protocol.status import Evaluation
from psedge.supervisor.run_rows import EvaluationRow, NoteRow, ProgressRow, Row


def _rows(
    count: int,
    *,
    epochs: bool = True,
    accuracy: bool = True,
    metrics: dict[str, float] | None = None,
) -> list[Row]:
    rows: list[Row] = []
    for step in range(1, count + 1):
        samples, epoch = step * 100, step / 4 if epochs else 0.0
        loss = 2.0 * math.exp(-step / 20)
        rows.append(ProgressRow(samples, step * 0.5, epoch, train_loss=loss, workers=2))
        if step % 4 == 0:
            measured = Evaluation(10, loss + 0.1, 1 - loss / 3 if accuracy else None, metrics or {})
            rows.append(EvaluationRow(samples, step * 0.5, epoch, measured))
    return rows


def _image(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return image


def _has(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(image.convert("RGB")) == colour).all(axis=2).any())


TRAIN, TEST = (0x2A, 0x78, 0xD6), (0xE8, 0x59, 0x0C)


def test_losses_and_accuracy_are_drawn() -> None:
    image = _image(learning_curve(_rows(100), "demo"))
    assert _has(image, TRAIN)
    assert _has(image, TEST)
    assert image.height > 0.7 * image.width, "two panels"


@pytest.mark.parametrize(
    "rows",
    [
        _rows(1),
        _rows(8, epochs=False),
        _rows(8, accuracy=False),
        _rows(8, metrics={"top-5": 0.9, "f1": 0.5}),
        [row for row in _rows(8) if isinstance(row, EvaluationRow)],
        [row for row in _rows(8) if isinstance(row, ProgressRow)],
        [*_rows(4), NoteRow(400, 2.0, "pi died")],
        [*_rows(4), EvaluationRow(500, 3.0, 1.5, Evaluation(10, math.nan, math.nan))],
    ],
)
def test_every_kind_of_run_has_a_curve(rows: list[Row]) -> None:
    _image(learning_curve(rows, "a run with {braces}, $dollars$ and _underscores_"))


def test_no_evaluation_is_no_test_curve() -> None:
    image = _image(learning_curve([row for row in _rows(30) if isinstance(row, ProgressRow)], "x"))
    assert _has(image, TRAIN)
    assert not _has(image, TEST)


def test_a_run_folder_gets_its_picture(tmp_path: Path) -> None:
    lines = [msgspec.json.encode(row) for row in _rows(12)]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*lines, b'{"kind":"progress","sam']))
    output = plot_run(tmp_path)
    assert output == tmp_path / "learning-curve.png"
    _image(output.read_bytes())


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no figures"):
        plot_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no loss and no measurement yet"):
        plot_run(tmp_path)
