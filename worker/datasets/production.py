"""Production lines: what the two made-up factory data sets, `parts` and `defects`, share.

Every line has a camera and a lamp of its own, so its pictures look different, and makes some
classes more often than others. A worker that sees one line only therefore holds data that is not
independent and identically distributed (non-IID), the hard case of distributed training.

Every picture is drawn from (seed, split, index) alone: the same on every worker, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psedge.protocol.errors import DataError
from psedge.worker.datasets.images import ImagePipeline
from psedge.worker.datasets.source import ArraySource

#: Drawn so many times larger and then averaged down, for smooth edges.
OVERSAMPLING = 3

#: Production lines unless a config says otherwise.
LINES = 3

#: How often a line makes its two favourite classes, compared with each of the others.
_FAVOUR = 4

#: Roughly of all pictures, on the scale 0..1.
MEAN, STD = 0.35, 0.15

_TRAIN, _TEST, _STYLE = 0, 1, 2

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LineStyle:
    """How the camera of one line sees; levels are grey values of 0..255.

    angle: where the light comes from, in radians. slope: how much it brightens that side.
    blur: weight of a pixel's neighbours, 0..0.25.
    """

    background: float
    gain: float
    angle: float
    slope: float
    noise: float
    blur: float
    texture: int

    @staticmethod
    def of(seed: int, line: int) -> LineStyle:
        draw = np.random.default_rng([seed, _STYLE, line])
        return LineStyle(
            background=float(draw.uniform(70, 120)),
            gain=float(draw.uniform(0.8, 1.1)),
            angle=float(draw.uniform(0, 2 * math.pi)),
            slope=float(draw.uniform(8, 28)),
            noise=float(draw.uniform(4, 9)),
            blur=float(draw.uniform(0.02, 0.18)),
            texture=line % 3,
        )

    def photographed(self, scenes: Floats, draw: np.random.Generator) -> Floats:
        """Scenes [n, size, size] as this line's camera takes them: light, blur, noise."""
        size = scenes.shape[1]
        across = np.linspace(-1, 1, size, dtype=np.float32)
        light = math.cos(self.angle) * across[None, :] + math.sin(self.angle) * across[:, None]
        flicker = draw.uniform(0.85, 1.15, (len(scenes), 1, 1)).astype(np.float32)
        lit = scenes * (self.gain * flicker) + np.float32(self.slope) * light.astype(np.float32)
        for axis in (1, 2):
            beside = np.roll(lit, 1, axis) + np.roll(lit, -1, axis)
            lit = (1 - 2 * self.blur) * lit + self.blur * beside
        grain = draw.standard_normal(lit.shape, np.float32)
        photographs: Floats = (lit + self.noise * grain).astype(np.float32)
        return photographs


@dataclass(frozen=True, slots=True)
class Factory:
    """A data set to be made.

    paint: adds the texture of a line's material to blank scenes [n, size, size].
    sketch: draws one sample of a class onto an oversized canvas.
    """

    name: str
    class_names: Sequence[str]
    sketch: Callable[[int, LineStyle, int, np.random.Generator], Image.Image]
    paint: Callable[[Floats, LineStyle, np.random.Generator], Floats]

    def made(
        self,
        split: str,
        *,
        augment: tuple[str, ...],
        seed: int,
        samples: int,
        test_samples: int,
        size: int,
        lines: int,
        line: int | None,
    ) -> ArraySource:
        """The samples of one split; `line` picks those of one line out of `lines`.

        The test split has every class equally often. Raises DataError for an impossible request.
        """
        count = samples if split == "train" else test_samples
        _check(self.name, count, size, lines, line)
        pictures, labels = [], []
        for number in range(lines) if line is None else (line,):
            made = self._line(number, split, range(number, count, lines), seed, size)
            pictures.append(made[0])
            labels.append(made[1])
        pipeline = ImagePipeline((MEAN,), (STD,), augment)
        inputs, targets = np.concatenate(pictures), np.concatenate(labels)
        if line is None:
            # Sample i was made by line i % lines: put the lines' samples back in that order.
            order = np.concatenate([np.arange(n, count, lines) for n in range(lines)])
            inputs, targets = inputs[np.argsort(order)], targets[np.argsort(order)]
        classes = len(self.class_names)
        return ArraySource(self.name, inputs, targets, classes=classes, pipeline=pipeline)

    def _line(
        self, line: int, split: str, indices: range, seed: int, size: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        style = LineStyle.of(seed, line)
        share = _TRAIN if split == "train" else _TEST
        often = _class_deck(len(self.class_names), line if split == "train" else None)
        scenes = np.empty((len(indices), size, size), np.float32)
        labels = np.empty(len(indices), np.int64)
        for row, index in enumerate(indices):
            draw = np.random.default_rng([seed, share, index])
            labels[row] = often[int(draw.integers(len(often)))]
            canvas = self.sketch(int(labels[row]), style, size * OVERSAMPLING, draw)
            scenes[row] = np.asarray(canvas.reduce(OVERSAMPLING), np.float32)
        camera = np.random.default_rng([seed, share, line, len(indices)])
        photographs = style.photographed(self.paint(scenes, style, camera), camera)
        return np.clip(photographs, 0, 255).astype(np.uint8)[..., None], labels


def _class_deck(classes: int, line: int | None) -> list[int]:
    """Class numbers to draw from; a line's two favourites are in it several times."""
    deck = list(range(classes))
    if line is not None:
        favourites = [label for label in deck if (label - 2 * line) % classes < 2]
        deck += favourites * (_FAVOUR - 1)
    return deck


def _check(name: str, count: int, size: int, lines: int, line: int | None) -> None:
    if not 16 <= size <= 256:
        raise DataError(f"{name}: data.arguments.size must be 16 to 256 pixels, got {size}")
    if lines < 1:
        raise DataError(f"{name}: data.arguments.lines must be at least 1, got {lines}")
    if line is not None and not 0 <= line < lines:
        raise DataError(f"{name}: data.arguments.line must be 0 to {lines - 1}, got {line}")
    if count < lines:
        raise DataError(f"{name}: {count} samples are too few for {lines} production lines")
