"""Photographs in folders: `train/<class>/*.jpg` and `test/<class>/*.jpg`.

The way in for real pictures from a real production line. Each picture is scaled and cropped to a
square once and then kept in memory, as far as the budget goes: decoding a photograph takes a
Raspberry Pi longer than training on it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from psedge.protocol.errors import DataError
from psedge.worker.datasets.images import ImagePipeline

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm")

#: ImageNet's statistics on the scale 0..1, customary for photographs.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.45,), (0.225,)


class ImageFolderSource:
    """One split of a folder of photographs, as square pictures of `size` pixels.

    cache_bytes: memory for pictures that are already scaled; further ones are read every time.
    """

    def __init__(
        self,
        files: list[Path],
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
        *,
        size: int,
        grey: bool,
        augment: tuple[str, ...],
        threads: int,
        cache_bytes: int,
    ) -> None:
        self.name = "image-folder"
        self.classes = len(class_names)
        self.class_names = class_names
        self._files = files
        self._labels = labels
        self._size = size
        self._grey = grey
        self._pipeline = ImagePipeline(
            GREY_MEAN if grey else MEAN, GREY_STD if grey else STD, augment
        )
        self._pool = ThreadPoolExecutor(threads, "psedge-loader")
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._cache_limit = cache_bytes // (size * size * (1 if grey else 3))
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._files)

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        pictures = np.stack(list(self._pool.map(self._picture, indices.tolist())))
        return self._pipeline(pictures, generator), torch.from_numpy(self._labels[indices])

    def _picture(self, index: int) -> NDArray[np.uint8]:
        kept = self._cache.get(index)
        if kept is not None:
            return kept
        picture = read_picture(self._files[index], self._size, self._grey)
        with self._lock:
            if len(self._cache) < self._cache_limit:
                self._cache[index] = picture
        return picture


def read_picture(file: Path, size: int, grey: bool) -> NDArray[np.uint8]:
    """A picture's central square, upright, scaled to [size, size, 1 or 3].

    Raises DataError if it cannot be read.
    """
    mode = "L" if grey else "RGB"
    try:
        with Image.open(file) as image:
            image.draft(mode, (size, size))
            upright = ImageOps.exif_transpose(image)
            square = ImageOps.fit(upright.convert(mode), (size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"the picture {file} cannot be read: {error}") from error
    return np.asarray(square, np.uint8).reshape(size, size, -1)


def load(
    path: Path,
    split: str,
    *,
    augment: tuple[str, ...] = (),
    threads: int = 2,
    size: int = 64,
    grey: bool = False,
    classes: Sequence[str] = (),
    cache_megabytes: int = 256,
) -> ImageFolderSource:
    """A split of a folder of photographs.

    classes: the folders' names in the order of their labels. Without it they are the folders in
    `train`, in alphabetical order; name them where each machine has photographs of its own and
    may lack a class.
    size: pixels of a side after scaling. grey: one channel instead of three.
    Raises DataError if there are no pictures, or a folder that is none of the classes.
    """
    if size < 1:
        raise DataError(f"image-folder: data.arguments.size must be at least 1, got {size}")
    class_names = tuple(classes) or _folders(path / "train")
    files, labels = _labelled(path, split, class_names)
    return ImageFolderSource(
        files,
        labels,
        class_names,
        size=size,
        grey=grey,
        augment=augment,
        threads=threads,
        cache_bytes=cache_megabytes * 1024 * 1024,
    )


def _labelled(
    path: Path, split: str, class_names: tuple[str, ...]
) -> tuple[list[Path], NDArray[np.int64]]:
    """The pictures of a split, class by class, and their labels."""
    unknown = sorted(set(_folders(path / split)) - set(class_names))
    if unknown:
        raise DataError(
            f"{path / split / unknown[0]}: {unknown[0]!r} is none of the classes "
            f"{', '.join(class_names)}"
        )
    found = [_pictures(path / split / name) for name in class_names]
    files = [file for of_class in found for file in of_class]
    labels = np.repeat(np.arange(len(found), dtype=np.int64), [len(files) for files in found])
    if not files:
        raise DataError(f"{path / split} holds no pictures ({', '.join(ENDINGS)})")
    return files, labels


def _folders(path: Path) -> tuple[str, ...]:
    if not path.is_dir():
        raise DataError(
            f"there is no folder {path}; psedge expects train/CLASS/*.jpg and test/CLASS/*.jpg"
        )
    return tuple(sorted(entry.name for entry in path.iterdir() if entry.is_dir()))


def _pictures(folder: Path) -> list[Path]:
    """Pictures anywhere beneath `folder`, in an order that is the same on every machine."""
    if not folder.is_dir():
        return []
    found = (file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS)
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())
