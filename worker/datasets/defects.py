"""Metal surfaces with and without defects: a made-up data set of six classes, from a seed.

Each picture is a patch of brushed, rolled or cast metal, by production line, with one kind of
defect or none. Dust lies on all of them, so that not every spot means a defect.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from psedge.worker.datasets.production import LINES, Factory, Floats, LineStyle
from psedge.worker.datasets.source import ArraySource

#: The level of a canvas where nothing is drawn; what differs from it is added to the metal.
NEUTRAL = 128

Draw = np.random.Generator


def _clean(image: Image.Image, style: LineStyle, draw: Draw) -> Image.Image:
    return image


def _scratch(image: Image.Image, style: LineStyle, draw: Draw) -> Image.Image:
    canvas, size = ImageDraw.Draw(image), image.width
    turn = draw.uniform(0, math.pi)
    for _ in range(int(draw.integers(1, 4))):
        x, y = draw.uniform(0.2, 0.8, 2) * size
        heading = turn + draw.normal(0, 0.12)
        reach = size * draw.uniform(0.2, 0.5)
        step = (reach * math.cos(heading), reach * math.sin(heading))
        ends = ((x - step[0], y - step[1]), (x + step[0], y + step[1]))
        below = tuple((column, row + size / 60) for column, row in ends)
        strength, width = draw.uniform(35, 75), size // 60 + 1
        canvas.line(below, fill=int(NEUTRAL - 0.5 * strength), width=width)
        canvas.line(ends, fill=int(NEUTRAL + strength), width=width)
    return image


def _crack(image: Image.Image, style: LineStyle, draw: Draw) -> Image.Image:
    canvas, size = ImageDraw.Draw(image), image.width
    level = int(NEUTRAL - draw.uniform(40, 85))
    start = draw.uniform(0.2, 0.8, 2) * size
    heading = draw.uniform(0, 2 * math.pi)
    branches = 1 + int(draw.integers(1, 3))
    for branch in range(branches):
        points = [(float(start[0]), float(start[1]))]
        turn = heading + branch * draw.uniform(0.6, 1.4) * (1 if branch % 2 else -1)
        for _ in range(int(draw.integers(5, 10))):
            turn += draw.normal(0, 0.55)
            step = size * draw.uniform(0.03, 0.08)
            x, y = points[-1]
            points.append((x + step * math.cos(turn), y + step * math.sin(turn)))
        canvas.line(points, fill=level, width=size // 70 + 1, joint="curve")
        start = np.asarray(points[len(points) // 2])
    return image


def _pits(image: Image.Image, style: LineStyle, draw: Draw) -> Image.Image:
    canvas, size = ImageDraw.Draw(image), image.width
    centre = draw.uniform(0.25, 0.75, 2) * size
    for _ in range(int(draw.integers(4, 11))):
        x, y = centre + draw.normal(0, 0.14 * size, 2)
        radius = size * draw.uniform(0.014, 0.036)
        shift = (0.5 * radius * math.cos(style.angle), 0.5 * radius * math.sin(style.angle))
        strength = draw.uniform(35, 80)
        _disc(canvas, x - shift[0], y - shift[1], radius, NEUTRAL + 0.5 * strength)
        _disc(canvas, x + shift[0], y + shift[1], radius, NEUTRAL - strength)
    return image


def _stain(image: Image.Image, style: LineStyle, draw: Draw) -> Image.Image:
    canvas, size = ImageDraw.Draw(image), image.width
    x, y = draw.uniform(0.3, 0.7, 2) * size
    level = NEUTRAL - draw.uniform(18, 45) * (1 if draw.integers(4) else -1)
    for _ in range(int(draw.integers(4, 9))):
        spread = draw.normal(0, 0.1 * size, 2)
        _disc(canvas, x + spread[0], y + spread[1], size * draw.uniform(0.07, 0.16), level)
    return image.filter(ImageFilter.BoxBlur(size * draw.uniform(0.01, 0.03)))


def _dent(image: Image.Image, style: LineStyle, draw: Draw) -> Image.Image:
    canvas, size = ImageDraw.Draw(image), image.width
    x, y = draw.uniform(0.3, 0.7, 2) * size
    radius, strength = size * draw.uniform(0.12, 0.24), draw.uniform(25, 55)
    for side, level in ((-1, NEUTRAL - strength), (1, NEUTRAL + strength)):
        shift = side * radius * 0.28
        across, down = shift * math.cos(style.angle), shift * math.sin(style.angle)
        _disc(canvas, x - across, y - down, radius, level)
    _disc(canvas, x, y, radius * 0.8, NEUTRAL)
    return image.filter(ImageFilter.BoxBlur(radius * 0.2))


def _disc(canvas: ImageDraw.ImageDraw, x: float, y: float, radius: float, level: float) -> None:
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(level))


#: The classes, in the order of their labels.
DEFECTS: dict[str, Callable[[Image.Image, LineStyle, Draw], Image.Image]] = {
    "clean": _clean,
    "crack": _crack,
    "dent": _dent,
    "pits": _pits,
    "scratch": _scratch,
    "stain": _stain,
}


def _sketch(label: int, style: LineStyle, size: int, draw: Draw) -> Image.Image:
    image = Image.new("L", (size, size), NEUTRAL)
    image = list(DEFECTS.values())[label](image, style, draw)
    canvas = ImageDraw.Draw(image)
    for _ in range(int(draw.integers(0, 3))):
        x, y = draw.uniform(0, size, 2)
        radius = size * draw.uniform(0.006, 0.014)
        _disc(canvas, x, y, radius, NEUTRAL + draw.uniform(-50, 50))
    return image


def _paint(scenes: Floats, style: LineStyle, draw: Draw) -> Floats:
    """Lays the defects onto metal: brushed along, rolled across, or cast."""
    grain = draw.standard_normal(scenes.shape, np.float32)
    axis = 2 if style.texture == 0 else 1
    if style.texture == 2:
        for direction in (1, 2):
            grain = grain + np.roll(grain, 1, direction)
        metal = 3.5 * grain
    else:
        for shift in (1, 2, 4, 8):
            grain = grain + np.roll(grain, shift, axis)
        metal = (2.2 if style.texture == 0 else 1.4) * grain
    surface: Floats = (scenes - NEUTRAL + metal + style.background + 40).astype(np.float32)
    return surface


SURFACES = Factory("defects", tuple(DEFECTS), _sketch, _paint)


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
    """A split of the surfaces: grey pictures of `size` x `size`, six classes.

    lines: production lines, each with its own metal, camera and mix of defects; sample i comes
    from line i % lines. line: only the samples of this one. Raises DataError for impossible
    numbers.
    """
    return SURFACES.made(
        split,
        augment=augment,
        seed=seed,
        samples=samples,
        test_samples=test_samples,
        size=size,
        lines=lines,
        line=line,
    )
