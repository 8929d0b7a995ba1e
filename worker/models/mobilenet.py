"""MobileNetV2 (Sandler et al. 2018) for 32 x 32 pictures.

The paper's network, except that the first convolution and the first widening stage keep the
picture's size: on 32 x 32 pixels the original's five halvings would leave a single pixel.
"""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor, nn

from psedge.protocol.errors import ModelError

#: Per stage: expansion, channels, blocks, stride of the first block (the paper's table 2).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow without a nonlinearity; add the input."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*_convolution(in_channels, wide, 1), nn.ReLU6()]
        layers += [*_convolution(wide, wide, 3, stride, groups=wide), nn.ReLU6()]
        layers += _convolution(wide, channels, 1)
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return inputs + outputs if self.residual else outputs


class MobileNetV2(nn.Module):
    """width: factor on every number of channels, rounded to multiples of 8."""

    def __init__(self, width: float, num_classes: int, in_channels: int, dropout: float) -> None:
        super().__init__()
        channels = _channels(32 * width)
        layers: list[nn.Module] = [*_convolution(in_channels, channels, 3), nn.ReLU6()]
        for expansion, base, blocks, first_stride in STAGES:
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                layers.append(
                    InvertedResidual(channels, _channels(base * width), stride, expansion)
                )
                channels = _channels(base * width)
        last = _channels(1280 * max(1.0, width))
        layers += [*_convolution(channels, last, 1), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(last, num_classes)
        self.dropout = dropout
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, num_classes] of images [batch, in_channels, height, width]."""
        features = self.features(images).mean(dim=(2, 3))
        logits: Tensor = self.head(functional.dropout(features, self.dropout, self.training))
        return logits


def mobilenetv2(
    width: float = 1.0, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0
) -> nn.Module:
    """MobileNetV2 for small pictures; 2,236,682 parameters at width 1 with 10 classes.

    Raises ModelError if `width` is not above 0.
    """
    if not width > 0:
        raise ModelError(f"mobilenetv2: width must be above 0, got {width}")
    return MobileNetV2(width, num_classes, in_channels, dropout)


def _convolution(
    in_channels: int, channels: int, size: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(
            in_channels, channels, size, stride, padding=size // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(channels),
    ]


def _channels(wanted: float) -> int:
    """The nearest multiple of 8, and never more than a tenth below what was wanted."""
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
