"""Whether a data set's labels fit a model's outputs, asked before any loss sees them.

On a GPU a label out of range ends the whole process without a clear word.
"""

from __future__ import annotations

from torch import Tensor

from psedge.protocol.errors import DataError
from psedge.worker.config import ModelConfig
from psedge.worker.datasets.source import Source
from psedge.worker.objectives import IGNORED_LABEL


class LabelCheck:
    """Checks the labels of one source against one model; other targets than labels pass."""

    def __init__(self, source: Source, config: ModelConfig) -> None:
        self._source = source
        self._is_labels = config.loss == "cross-entropy"
        self._ignored = config.loss_arguments.get("ignore_index", IGNORED_LABEL)
        self._outputs: int | None = None

    @property
    def ready(self) -> bool:
        """Whether an output of the model was seen."""
        return self._outputs is not None

    def learn(self, output: object) -> None:
        """Learn from an output how many classes the model tells apart.

        Raises DataError if the data set has more.
        """
        self._outputs = 0
        if not self._is_labels or not isinstance(output, Tensor) or output.ndim < 2:
            return
        self._outputs = output.shape[1]
        classes = self._source.classes
        if classes is not None and classes > self._outputs:
            raise DataError(
                f"{self._source.name} has {classes} classes, but the model has "
                f"{self._outputs} outputs: set the number of classes in model.arguments"
            )

    def check(self, targets: Tensor) -> None:
        """Raises DataError for a label that the model has no output for."""
        if not self._outputs or targets.is_floating_point() or not targets.numel():
            return
        outside = (targets < 0) | (targets >= self._outputs)
        wrong = targets[outside & (targets != self._ignored)]
        if len(wrong):
            raise DataError(
                f"{self._source.name} has the label {int(wrong[0])}, but the model has "
                f"{self._outputs} outputs: labels must lie in 0..{self._outputs - 1}"
            )
