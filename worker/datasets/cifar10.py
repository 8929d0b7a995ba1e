"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test pictures, 32 x 32 RGB, 10 classes.

Read from `cifar10.npz` (arrays x_train, y_train, x_test, y_test) or from the *binary version*
that its author publishes. The Python version is pickled and therefore never read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psedge.protocol.errors import DataError
from psedge.worker.datasets.images import ImagePipeline
from psedge.worker.datasets.npz import read_npz
from psedge.worker.datasets.source import ArraySource

#: Of the training pictures, per channel, on the scale 0..1.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

BINARY_FOLDER = "cifar-10-batches-bin"

#: One label, then the red, green and blue planes.
_RECORD_BYTES = 1 + 3 * 32 * 32

_FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}

_WHERE_FROM = (
    "Put cifar10.npz there, or unpack the binary version there: "
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
)


def load(path: Path, split: str, *, augment: tuple[str, ...] = ()) -> ArraySource:
    """A split of CIFAR-10, normalised.

    path: an .npz file, or a folder that holds `cifar10.npz`, the folder `cifar-10-batches-bin`
    or the .bin files themselves. Raises DataError when none of these is there.
    """
    pictures, labels = _read(path, split)
    if pictures.shape[1:] != (32, 32, 3) or pictures.dtype != np.uint8:
        raise DataError(
            f"{path}: CIFAR-10 pictures are uint8 [n, 32, 32, 3], "
            f"these are {pictures.dtype} {list(pictures.shape)}"
        )
    pipeline = ImagePipeline(MEAN, STD, augment)
    return ArraySource("CIFAR-10", pictures, labels, classes=10, pipeline=pipeline)


def _read(path: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    if path.suffix == ".npz":
        return read_npz(path, split)
    if (path / "cifar10.npz").exists():
        return read_npz(path / "cifar10.npz", split)
    for folder in (path / BINARY_FOLDER, path):
        if (folder / _FILES[split][0]).exists():
            return _read_binary([folder / name for name in _FILES[split]])
    pickled = (path / "cifar-10-batches-py").exists()
    note = " The Python version that lies there is pickled and never read." if pickled else ""
    raise DataError(f"CIFAR-10 is not in {path}.{note} {_WHERE_FROM}")


def _read_binary(files: list[Path]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    records = []
    for file in files:
        try:
            content = np.fromfile(file, np.uint8)
        except OSError as error:
            raise DataError(f"CIFAR-10: {file} cannot be read: {error.strerror}") from error
        if content.size == 0 or content.size % _RECORD_BYTES:
            raise DataError(f"CIFAR-10: {file} is damaged or incomplete; unpack it again")
        records.append(content.reshape(-1, _RECORD_BYTES))
    whole = np.concatenate(records)
    planes = whole[:, 1:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), whole[:, 0].copy()
