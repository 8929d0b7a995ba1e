"""Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey pictures of clothes, 28 x 28, 10 classes.

Read from the four .gz files that its authors publish, or from a `fashion-mnist.npz`. MNIST comes
in files of the same names and is read just as well.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psedge.protocol.errors import DataError
from psedge.worker.datasets.images import ImagePipeline
from psedge.worker.datasets.npz import read_npz
from psedge.worker.datasets.source import ArraySource

#: Of the training pictures, on the scale 0..1.
MEAN, STD = 0.2860, 0.3530

_PREFIX = {"train": "train", "test": "t10k"}

#: Third byte of an IDX file whose elements are unsigned bytes; the fourth is the number of axes.
_UNSIGNED_BYTE = 0x08

#: More than any file of this family holds; a larger one is not read into memory.
_FILE_LIMIT_BYTES = 1 << 30


def load(path: Path, split: str, *, augment: tuple[str, ...] = ()) -> ArraySource:
    """A split of Fashion-MNIST, normalised.

    path: an .npz file, or a folder with `train-images-idx3-ubyte.gz` and its three companions,
    packed or unpacked, in itself or beneath `fashion-mnist` or torchvision's `FashionMNIST/raw`.
    Raises DataError when they are not there or damaged.
    """
    pictures, labels = _read(path, split)
    if pictures.dtype != np.uint8 or pictures.ndim != 3:
        raise DataError(
            f"{path}: Fashion-MNIST pictures are uint8 [n, 28, 28], "
            f"these are {pictures.dtype} {list(pictures.shape)}"
        )
    pipeline = ImagePipeline((MEAN,), (STD,), augment)
    return ArraySource("Fashion-MNIST", pictures[..., None], labels, classes=10, pipeline=pipeline)


def _read(path: Path, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
    if path.suffix == ".npz":
        return read_npz(path, split)
    if (path / "fashion-mnist.npz").exists():
        return read_npz(path / "fashion-mnist.npz", split)
    images_name = f"{_PREFIX[split]}-images-idx3-ubyte"
    labels_name = f"{_PREFIX[split]}-labels-idx1-ubyte"
    for folder in (path, path / "fashion-mnist", path / "FashionMNIST" / "raw"):
        for ending in (".gz", ""):
            images, labels = folder / (images_name + ending), folder / (labels_name + ending)
            if images.exists() and labels.exists():
                return read_idx(images), read_idx(labels)
    raise DataError(
        f"Fashion-MNIST is not in {path}. Put the four .gz files of "
        "https://github.com/zalandoresearch/fashion-mnist (train-images-idx3-ubyte.gz, ...) there"
    )


def read_idx(file: Path) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes, packed by gzip if its name ends in .gz.

    Raises DataError for a file of another kind, or one with too few or too many bytes.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            content = stream.read(_FILE_LIMIT_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}; download it again") from error
    axes = content[3] if len(content) >= 4 else 0
    start = 4 + 4 * axes
    if content[:3] != bytes((0, 0, _UNSIGNED_BYTE)) or len(content) < start:
        raise DataError(f"{file} is not an IDX file of unsigned bytes; download it again")
    shape = [int(extent) for extent in np.frombuffer(content, ">u4", axes, offset=4)]
    values = np.frombuffer(content, np.uint8, offset=start)
    expected = 1
    for extent in shape:
        expected *= extent
    if values.size != expected:
        raise DataError(
            f"{file} should hold {expected} bytes of data but has {values.size}; download it again"
        )
    return values.reshape(shape)
