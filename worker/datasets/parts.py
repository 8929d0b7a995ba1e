"""Machine parts on a conveyor belt: a made-up data set of six classes, drawn from a seed.

Each picture shows one part from above in any position, turned, with its shadow, swarf around it
and the camera of its production line. For trying psedge out without photographs at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from psedge.worker.datasets.production import LINES, Factory, Floats, LineStyle
from psedge.worker.datasets.source import ArraySource

Points = list[tuple[float, float]]


class Pen:
    """Draws shapes given in the part's own coordinates, where it is about 2 units across."""

    def __init__(
        self, canvas: ImageDraw.ImageDraw, centre: tuple[float, float], scale: float, angle: float
    ) -> None:
        self._canvas = canvas
        self._centre = centre
        self._scale = scale
        self._turn = (math.cos(angle) * scale, math.sin(angle) * scale)

    def polygon(self, points: Points, level: float) -> None:
        self._canvas.polygon([self._place(x, y) for x, y in points], fill=int(level))

    def disc(self, x: float, y: float, radius: float, level: float) -> None:
        column, row = self._place(x, y)
        reach = radius * self._scale
        box = (column - reach, row - reach, column + reach, row + reach)
        self._canvas.ellipse(box, fill=int(level))

    def _place(self, x: float, y: float) -> tuple[float, float]:
        cos, sin = self._turn
        return self._centre[0] + cos * x - sin * y, self._centre[1] + sin * x + cos * y


def _gear(pen: Pen, draw: np.random.Generator, metal: float, gap: float) -> None:
    teeth = int(draw.integers(9, 15))
    root = draw.uniform(0.72, 0.8)
    outline: Points = []
    for tooth in range(teeth):
        for part, radius in ((0.0, root), (0.2, 1.0), (0.5, 1.0), (0.7, root)):
            angle = 2 * math.pi * (tooth + part) / teeth
            outline.append((radius * math.cos(angle), radius * math.sin(angle)))
    pen.polygon(outline, metal)
    pen.disc(0, 0, draw.uniform(0.2, 0.42), gap)


def _bolt(pen: Pen, draw: np.random.Generator, metal: float, gap: float) -> None:
    half, end = draw.uniform(0.16, 0.26), draw.uniform(0.7, 1.05)
    pen.polygon(_box(-0.6, -half, end, half), metal)
    pen.polygon(_box(-1.0, -2 * half, -0.6, 2 * half), metal * 0.92)
    pen.polygon(_box(-1.0, -0.7 * half, -0.6, 0.7 * half), metal * 1.08)
    for thread in np.arange(draw.uniform(-0.3, 0.1), end, 0.14):
        pen.polygon(
            [(thread, -half), (thread + 0.05, -half), (thread + 0.1, half), (thread + 0.05, half)],
            0.55 * metal + 0.45 * gap,
        )


def _nut(pen: Pen, draw: np.random.Generator, metal: float, gap: float) -> None:
    corners = [(math.cos(i * math.pi / 3) * 0.9, math.sin(i * math.pi / 3) * 0.9) for i in range(6)]
    pen.polygon(corners, metal * 0.9)
    pen.disc(0, 0, 0.74, metal)
    pen.disc(0, 0, draw.uniform(0.36, 0.52), gap)


def _washer(pen: Pen, draw: np.random.Generator, metal: float, gap: float) -> None:
    pen.disc(0, 0, 0.86, metal)
    pen.disc(0, 0, draw.uniform(0.34, 0.56), gap)


def _bearing(pen: Pen, draw: np.random.Generator, metal: float, gap: float) -> None:
    balls = int(draw.integers(7, 11))
    pen.disc(0, 0, 0.95, metal)
    pen.disc(0, 0, 0.77, 0.35 * metal + 0.65 * gap)
    for ball in range(balls):
        angle = 2 * math.pi * ball / balls
        pen.disc(0.62 * math.cos(angle), 0.62 * math.sin(angle), 0.13, metal * 1.08)
    pen.disc(0, 0, 0.48, metal)
    pen.disc(0, 0, draw.uniform(0.24, 0.34), gap)


def _bracket(pen: Pen, draw: np.random.Generator, metal: float, gap: float) -> None:
    arm = draw.uniform(0.42, 0.6)
    long, short = 0.85, draw.uniform(0.4, 0.85)
    inner_x, inner_y = -long + arm, long - arm
    outline = [(-long, -long), (inner_x, -long), (inner_x, inner_y), (short, inner_y)]
    pen.polygon([*outline, (short, long), (-long, long)], metal)
    hole = arm * draw.uniform(0.22, 0.32)
    pen.disc(-long + arm / 2, -long + 0.3, hole, gap)
    pen.disc(short - 0.3, long - arm / 2, hole, gap)


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


#: The classes, in the order of their labels.
SHAPES: dict[str, Callable[[Pen, np.random.Generator, float, float], None]] = {
    "bearing": _bearing,
    "bolt": _bolt,
    "bracket": _bracket,
    "gear": _gear,
    "nut": _nut,
    "washer": _washer,
}


def _sketch(label: int, style: LineStyle, size: int, draw: np.random.Generator) -> Image.Image:
    belt = style.background
    image = Image.new("L", (size, size), int(belt))
    canvas = ImageDraw.Draw(image)
    metal = belt + draw.uniform(45, 110)
    centre = (size * draw.uniform(0.38, 0.62), size * draw.uniform(0.38, 0.62))
    scale, angle = size * draw.uniform(0.24, 0.42), draw.uniform(0, 2 * math.pi)
    shape = list(SHAPES.values())[label]
    # The shadow is the same shape once more, so it must be drawn with the same random numbers.
    shape_seed = int(draw.integers(1 << 32))
    reach = 0.03 * size
    shadow = (centre[0] - reach * math.cos(style.angle), centre[1] - reach * math.sin(style.angle))
    for place, light, dark in ((shadow, belt * 0.6, belt), (centre, metal, belt * 0.8)):
        shape(Pen(canvas, place, scale, angle), np.random.default_rng(shape_seed), light, dark)
    for _ in range(int(draw.integers(0, 5))):
        x, y = draw.uniform(0, size, 2)
        turn, length = draw.uniform(0, 2 * math.pi), draw.uniform(0.03, 0.12) * size
        end = (x + length * math.cos(turn), y + length * math.sin(turn))
        canvas.line(((x, y), end), fill=int(belt + draw.uniform(20, 100)), width=size // 70 + 1)
    return image


def _paint(scenes: Floats, style: LineStyle, draw: np.random.Generator) -> Floats:
    """The weave of the belt: stripes along, across or none, by the line's texture."""
    size = scenes.shape[1]
    if style.texture == 2:
        return scenes
    phase = draw.uniform(0, 2 * math.pi, (len(scenes), 1)).astype(np.float32)
    stripes = 7 * np.sin(np.arange(size, dtype=np.float32) * np.float32(1.1) + phase)
    weave: Floats = scenes + (stripes[:, None, :] if style.texture == 0 else stripes[:, :, None])
    return weave


PARTS = Factory("parts", tuple(SHAPES), _sketch, _paint)


def load(
    split: str,
    *,
    augment: tuple[str, ...] = (),
    seed: int = 0,
    samples: int = 6000,
    test_samples: int = 1200,
    size: int = 48,
    lines: int = LINES,
    line: int | None = None,
) -> ArraySource:
    """A split of the parts: grey pictures of `size` x `size`, six classes.

    lines: production lines, each with its own camera and mix of classes; sample i comes from
    line i % lines. line: only the samples of this one. Raises DataError for impossible numbers.
    """
    return PARTS.made(
        split,
        augment=augment,
        seed=seed,
        samples=samples,
        test_samples=test_samples,
        size=size,
        lines=lines,
        line=line,
    )
