"""ResNet for 32 x 32 pictures (He et al. 2016, "Deep residual learning", section 4.2).

Three stages of 16, 32 and 64 channels; shortcuts that change the size are of the paper's option
A: every other pixel, and zeros for the channels that are new, so they add no parameters.
"""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm, added to their input."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.new_channels = channels - in_channels

    def forward(self, inputs: Tensor) -> Tensor:
        shortcut = inputs
        if self.stride != 1:
            shortcut = shortcut[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            before = self.new_channels // 2
            after = self.new_channels - before
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, before, after))
        outputs = functional.relu(self.bn1(self.conv1(inputs)))
        return functional.relu(self.bn2(self.conv2(outputs)) + shortcut)


class CifarResNet(nn.Module):
    """6 n + 2 layers, n = `blocks` in each of the three stages."""

    def __init__(self, blocks: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.stage1 = _stage(16, 16, blocks, stride=1)
        self.stage2 = _stage(16, 32, blocks, stride=2)
        self.stage3 = _stage(32, 64, blocks, stride=2)
        self.head = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, num_classes] of images [batch, in_channels, height, width]."""
        features = functional.relu(self.bn(self.conv(images)))
        features = self.stage3(self.stage2(self.stage1(features)))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def resnet32(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNet-32: 464,154 parameters for 10 classes; about 92.5 % on CIFAR-10 (He et al. 2016)."""
    return CifarResNet(5, num_classes, in_channels)


def resnet20(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNet-20: 269,722 parameters for 10 classes; about 91.3 % on CIFAR-10 (He et al. 2016)."""
    return CifarResNet(3, num_classes, in_channels)
