"""The multilayer perceptron: for tables and other inputs without axes of space."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from psedge.protocol.errors import ModelError


class MLP(nn.Module):
    """Linear layers with ReLU and dropout between them, on inputs flattened to one axis."""

    def __init__(self, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths[:-1]):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        layers.append(nn.Linear(widths[-2], widths[-1]))
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs [batch, num_classes] of inputs [batch, ...]."""
        outputs: Tensor = self.layers(inputs.flatten(1))
        return outputs


def mlp(
    in_features: int | Sequence[int] = 64,
    hidden: Sequence[int] = (128, 128),
    num_classes: int = 10,
    dropout: float = 0.0,
) -> nn.Module:
    """A perceptron with one hidden layer for each entry of `hidden`.

    in_features: numbers per sample, or the sample's shape such as [28, 28, 1].
    num_classes: outputs; 1 for a regression.
    Raises ModelError for a width below 1.
    """
    inputs = in_features if isinstance(in_features, int) else math.prod(in_features)
    widths = [inputs, *hidden, num_classes]
    if min(widths) < 1:
        raise ModelError(f"mlp: every width must be at least 1, got {widths}")
    return MLP(widths, dropout)
