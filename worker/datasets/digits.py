"""The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

Real data without a download (UCI's test set of optical digits, Alpaydin & Kaynak 1998): 1,438 for
training and 359 for testing, every class in the same share, always the same ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from psedge.protocol.errors import DataError
from psedge.worker.datasets.images import ImagePipeline
from psedge.worker.datasets.source import ArraySource

#: The pixels' mean and deviation, on scikit-learn's scale of 0..16.
MEAN, STD = 4.884, 6.017

_SPLIT_SEED = 20

_TEST_SHARE = 0.2


def load(split: str, *, augment: tuple[str, ...] = ()) -> ArraySource:
    """A split of the digits. Raises DataError where scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            "the data set digits comes with scikit-learn, which is not installed here: "
            'pip install "psedge[demo]"'
        ) from None
    digits = load_digits()
    labels: NDArray[Any] = digits.target.astype(np.int64)
    chosen = _indices(labels, split)
    pictures = digits.images[chosen].astype(np.float32)[..., None]
    pipeline = ImagePipeline((MEAN,), (STD,), augment)
    return ArraySource("digits", pictures, labels[chosen], classes=10, pipeline=pipeline)


def _indices(labels: NDArray[Any], split: str) -> NDArray[np.int64]:
    """Sorted indices of a split: of each class, a fixed random fifth is for testing."""
    generator = np.random.default_rng(_SPLIT_SEED)
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        test[members[: round(len(members) * _TEST_SHARE)]] = True
    return np.flatnonzero(test if split == "test" else ~test)
