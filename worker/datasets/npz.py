"""Data sets in NumPy's .npz files: `x_train`, `y_train`, `x_test` and `y_test`.

The format of choice for one's own data: one file, no code, nothing to unpickle, and two lines to
make: `numpy.savez_compressed("mine.npz", x_train=..., y_train=..., x_test=..., y_test=...)`.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from psedge.protocol.errors import DataError
from psedge.worker.datasets.images import ImagePipeline
from psedge.worker.datasets.source import ArraySource

Axes = Literal["auto", "nhwc", "nchw", "nhw", "none"]

#: Extents that an axis of colour channels has.
_CHANNELS = (1, 3, 4)


def read_npz(file: Path, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Inputs and targets of one split, `train` or `test`.

    Raises DataError if the file is missing, damaged, lacks an array or holds Python objects.
    """
    try:
        if not zipfile.is_zipfile(file) and file.exists():
            raise DataError(
                f"{file} is no .npz file; write it with numpy.savez(file, x_train=..., ...)"
            )
        archive = np.load(file, allow_pickle=False)
        with archive:
            names = (f"x_{split}", f"y_{split}")
            missing = [name for name in names if name not in archive]
            if missing:
                raise DataError(
                    f"{file} holds no array {missing[0]!r}, only {', '.join(archive) or 'none'}; "
                    "psedge reads x_train, y_train, x_test and y_test"
                )
            return archive[names[0]], archive[names[1]]
    except FileNotFoundError:
        raise DataError(f"there is no data file {file}: see data.path and --data") from None
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise DataError(f"{file} is not a readable .npz file: {error}") from error
        raise DataError(
            f"{file} holds Python objects, which psedge never loads, for they can run code: "
            "save arrays of numbers"
        ) from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file} is not a readable .npz file: {error}") from error


def load(
    file: Path,
    split: str,
    *,
    augment: tuple[str, ...] = (),
    axes: Axes = "auto",
    mean: list[float] | None = None,
    std: list[float] | None = None,
    classes: int | None = None,
) -> ArraySource:
    """A split of an .npz file.

    axes: what the axes of the inputs mean; `auto` takes uint8 arrays, and float arrays with an
    axis of 1, 3 or 4 channels, for pictures, and `none` takes nothing for a picture.
    mean, std: per channel, for pictures; absent: 0.5 and 0.25 for uint8, 0 and 1 for floats.
    """
    inputs, targets = read_npz(file, split)
    pictures = as_pictures(inputs, axes, str(file))
    if pictures is None:
        if augment:
            raise DataError(
                f"{file}: data.augment is for pictures, but x_{split} has the shape "
                f"{list(inputs.shape)}; name its axes with data.arguments.axes"
            )
        return ArraySource(file.name, inputs, targets, classes=classes)
    pipeline = ImagePipeline(*_statistics(pictures, mean, std, file), augment)
    return ArraySource(file.name, pictures, targets, classes=classes, pipeline=pipeline)


def as_pictures(inputs: NDArray[Any], axes: Axes, name: str) -> NDArray[Any] | None:
    """The inputs as NHWC pictures, uint8 or float32, or None if they are no pictures.

    Raises DataError if `axes` does not fit, or if `auto` cannot tell.
    """
    if axes == "auto":
        axes = _guess_axes(inputs, name)
    if axes == "none":
        return None
    if axes not in ("nhwc", "nchw", "nhw") or inputs.ndim != len(axes):
        raise DataError(
            f"{name}: data.arguments.axes = {axes!r} does not fit inputs of {inputs.ndim} axes; "
            'choose "nhwc", "nchw", "nhw" or "none"'
        )
    if inputs.dtype != np.uint8:
        inputs = inputs.astype(np.float32)
    if axes == "nchw":
        return np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
    return inputs[..., None] if axes == "nhw" else inputs


def _guess_axes(inputs: NDArray[Any], name: str) -> Axes:
    if inputs.ndim == 3 and inputs.dtype == np.uint8:
        return "nhw"
    picture_like = inputs.dtype == np.uint8 or np.issubdtype(inputs.dtype, np.floating)
    if inputs.ndim != 4 or not picture_like:
        return "none"
    last, second = inputs.shape[3] in _CHANNELS, inputs.shape[1] in _CHANNELS
    if last == second:
        raise DataError(
            f"{name}: cannot tell which axis of {list(inputs.shape)} holds the channels; "
            'set data.arguments.axes to "nhwc" or "nchw"'
        )
    return "nhwc" if last else "nchw"


def _statistics(
    pictures: NDArray[Any], mean: list[float] | None, std: list[float] | None, file: Path
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = pictures.shape[3]
    whole = pictures.dtype == np.uint8
    means = tuple(mean) if mean else (0.5 if whole else 0.0,) * channels
    stds = tuple(std) if std else (0.25 if whole else 1.0,) * channels
    if len(means) != channels or len(stds) != channels or min(stds) <= 0:
        raise DataError(
            f"{file}: data.arguments.mean and .std need one number for each of the {channels} "
            "channels, and std must be above 0"
        )
    return means, stds
