"""torchvision's data sets, by name: `torchvision:SVHN`, `torchvision:EuroSAT`, ...

Their files lie in the worker's own data folder; a config can neither name another folder nor
pass anything that is not plain JSON.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from psedge.protocol.errors import DataError
from psedge.worker.datasets.places import leaves_folder
from psedge.worker.datasets.source import DatasetSource
from psedge.worker.imports import AllowList, resolve

#: Arguments that psedge itself fills in, or that name code or folders.
_OURS = ("root", "transform", "target_transform", "transforms", "loader", "is_valid_file", "train")


def load(
    name: str,
    path: Path,
    split: str,
    allow: AllowList,
    *,
    augment: tuple[str, ...] = (),
    threads: int = 2,
    arguments: Mapping[str, Any],
) -> DatasetSource:
    """A split of the torchvision data set `name`, its pictures as float32 in -1..1.

    arguments: for torchvision, and `resize`: scale every picture to so many pixels a side,
    which is needed where they differ in size.
    Raises DataError if torchvision lacks the data set or its files are not there.
    """
    factory = resolve(f"torchvision.datasets:{name}", {}, allow, "data set")
    given = dict(arguments)
    size = given.pop("resize", None)
    for key, value in given.items():
        if key in _OURS:
            raise DataError(f"torchvision:{name}: data.arguments cannot set {key!r}")
        if isinstance(value, str) and leaves_folder(value):
            raise DataError(
                f"torchvision:{name}: data.arguments.{key} = {value!r} names a place outside of "
                "the data folder"
            )
    call = _arguments(factory, name, path, split, given)
    try:
        dataset = factory(**call, transform=lambda image: as_tensor(image, size))
    except (RuntimeError, OSError, TypeError, ValueError, ImportError) as error:
        raise DataError(
            f"torchvision:{name} cannot be loaded from {path}: {error}; "
            "data.arguments.download = true fetches it where torchvision can"
        ) from error
    return DatasetSource(f"torchvision:{name}", dataset, threads=threads, augment=augment)


def as_tensor(image: Any, size: int | None) -> Tensor:
    """float32 [channels, height, width] in -1..1 of a Pillow image."""
    if not isinstance(image, Image.Image):
        raise DataError(f"expected a picture, got {type(image).__name__}")
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.array(image, np.float32) / np.float32(127.5) - np.float32(1.0)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))


def _arguments(
    factory: Callable[..., Any], name: str, path: Path, split: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """torchvision's data sets say train and test in several ways; this finds the right one."""
    accepted = inspect.signature(factory).parameters
    call: dict[str, Any] = {}
    if "root" in accepted:
        call["root"] = str(path)
    if "train" in accepted:
        call["train"] = split == "train"
    elif "split" in accepted:
        call["split"] = split
    elif "image_set" in accepted:
        call["image_set"] = split
    unknown = [key for key in given if key not in accepted]
    if unknown:
        raise DataError(
            f"torchvision:{name} takes no argument {unknown[0]!r}; "
            f"it takes {', '.join(key for key in accepted if key not in _OURS)}"
        )
    return {**call, **given}
