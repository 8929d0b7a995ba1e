"""Where a worker's batches come from: samples by index, whatever they are stored in.

A source knows nothing of epochs, ranges or other workers: `order.py` decides which indices are
wanted, a source only fetches them. It is read by several threads at once.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from psedge.protocol.errors import DataError
from psedge.worker.datasets.images import ImagePipeline, augmented, check_augmentations


class Source(Protocol):
    """A finite, indexable set of samples."""

    @property
    def name(self) -> str:
        """As people know it, for messages."""
        ...

    @property
    def classes(self) -> int | None:
        """How many classes the labels tell apart, or None where targets are not labels."""
        ...

    def __len__(self) -> int: ...

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets of these samples, in this order, on the CPU.

        generator: draws the augmentation; None leaves the samples as they are.
        Raises DataError for a sample that cannot be read.
        """
        ...


class ArraySource:
    """Samples in memory, as two arrays.

    inputs: pictures (uint8 or float, NHWC) when `pipeline` is given. Otherwise any shape: floats
    become float32 and integers int64, as embedding layers want them.
    targets: integers become int64 (labels), floats float32.
    Raises DataError if there are no samples, or not one target for each.
    """

    def __init__(
        self,
        name: str,
        inputs: NDArray[Any],
        targets: NDArray[Any],
        *,
        classes: int | None = None,
        pipeline: ImagePipeline | None = None,
    ) -> None:
        if len(inputs) != len(targets):
            raise DataError(f"{name}: {len(inputs)} samples but {len(targets)} targets")
        if len(inputs) == 0:
            raise DataError(f"{name}: the data set is empty")
        self.name = name
        self.classes = _check_labels(name, targets, classes)
        self._inputs = inputs
        self._targets = targets
        self._pipeline = pipeline

    def __len__(self) -> int:
        return len(self._inputs)

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        targets = _usual_dtype(torch.from_numpy(self._targets[indices]))
        chosen = self._inputs[indices]
        if self._pipeline is None:
            return _usual_dtype(torch.from_numpy(chosen)), targets
        return self._pipeline(chosen, generator), targets


class DatasetSource:
    """Any map-style torch Dataset whose samples are (input, target) pairs.

    threads: read that many samples at once; 1 reads them one after the other, for data sets that
    must not be read in parallel. augment: applied to inputs that are batches of pictures
    [batch, channels, height, width]; margins are filled with 0.
    Raises DataError if the data set is empty or has no length.
    """

    def __init__(
        self, name: str, dataset: Any, *, threads: int = 2, augment: tuple[str, ...] = ()
    ) -> None:
        check_augmentations(augment)
        self.name = name
        self._dataset = dataset
        self._augment = augment
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise DataError(
                f"{name}: {type(dataset).__name__} has no length or cannot be indexed; "
                "psedge needs a map-style torch Dataset, with __len__ and __getitem__"
            )
        if len(dataset) == 0:
            raise DataError(f"{name}: the data set is empty")
        names = getattr(dataset, "classes", None)
        self.classes = len(names) if isinstance(names, list | tuple) else None
        self._pool = ThreadPoolExecutor(threads, "psedge-loader") if threads > 1 else None

    def __len__(self) -> int:
        return len(self._dataset)

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        wanted = indices.tolist()
        reader = map if self._pool is None else self._pool.map
        inputs, targets = self._collated(list(reader(self._sample, wanted)))
        if generator is not None and self._augment:
            inputs = self._augmented(inputs, generator)
        return inputs, targets

    def _sample(self, index: int) -> Any:
        try:
            return self._dataset[index]
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{self.name}: sample {index} cannot be read: {type(error).__name__}: {error}"
            ) from error

    def _collated(self, samples: list[Any]) -> tuple[Tensor, Tensor]:
        try:
            batch = default_collate(samples)
        except (TypeError, RuntimeError) as error:
            raise DataError(
                f"{self.name}: samples do not stack to a batch of tensors: {error}"
            ) from error
        pair = isinstance(batch, list | tuple) and len(batch) == 2
        if not (pair and isinstance(batch[0], Tensor) and isinstance(batch[1], Tensor)):
            raise DataError(
                f"{self.name}: each sample must be a pair (input, target) of tensors, arrays or "
                "numbers; a data set of another kind needs a loop of its own (psedge.connect)"
            )
        return _usual_dtype(batch[0]), _usual_dtype(batch[1])

    def _augmented(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        if inputs.ndim != 4:
            raise DataError(
                f"{self.name}: data.augment is for batches of pictures with 4 axes, "
                f"these have {inputs.ndim}"
            )
        pictures = augmented(inputs.permute(0, 2, 3, 1).numpy(), self._augment, generator)
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


class LimitedSource:
    """The first `limit` samples of another source, or all if it has fewer."""

    def __init__(self, source: Source, limit: int) -> None:
        self.name = source.name
        self.classes = source.classes
        self._source = source
        self._limit = limit

    def __len__(self) -> int:
        return min(self._limit, len(self._source))

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        return self._source.batch(indices, generator)


def _usual_dtype(values: Tensor) -> Tensor:
    """float32 for floats and bools, int64 for integers: what models and losses expect."""
    if values.is_complex():
        return values
    floats = values.is_floating_point() or values.dtype == torch.bool
    return values.to(torch.float32 if floats else torch.int64)


def _check_labels(name: str, targets: NDArray[Any], classes: int | None) -> int | None:
    """The number of classes: as given, else one more than the largest label."""
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        return classes
    least, most = int(targets.min()), int(targets.max())
    if least < 0 or (classes is not None and most >= classes):
        wrong = least if least < 0 else most
        expected = "0 and up" if classes is None else f"0..{classes - 1}"
        raise DataError(f"{name}: the label {wrong} is out of range; labels must lie in {expected}")
    return most + 1 if classes is None else classes
