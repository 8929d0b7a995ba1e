"""Small convolutional networks for small pictures: the shipped examples' models.

All are one family: blocks of two 3 x 3 convolutions with normalisation and ReLU, the picture
halved after each, then the mean of the last feature map into a linear layer. A Raspberry Pi
trains any of them.

Most normalise by BatchNorm. Where workers see very different pictures, each on its own line,
BatchNorm learns with one line's statistics but is used with those of all lines mixed, and loses
accuracy for it (Hsieh et al. 2020, "The Non-IID Data Quagmire"); there GroupNorm, which knows no
statistics of the batch, does better though it learns more slowly.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """One block for each entry of `widths`, then dropout and a linear layer on the mean.

    stride: of the very first convolution; 2 makes all that follows four times cheaper.
    groups: of channels that are normalised together, or 0 for BatchNorm.
    """

    def __init__(
        self,
        widths: Sequence[int],
        num_classes: int,
        in_channels: int,
        dropout: float,
        stride: int = 1,
        groups: int = 0,
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for channels in widths:
            blocks.append(_convolution(in_channels, channels, stride, groups))
            blocks += [_convolution(channels, channels, 1, groups), nn.MaxPool2d(2)]
            in_channels, stride = channels, 1
        self.features = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, num_classes] of images [batch, in_channels, height, width]."""
        logits: Tensor = self.head(self.dropout(self.features(images).mean(dim=(2, 3))))
        return logits


def _convolution(in_channels: int, channels: int, stride: int, groups: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    norm = nn.GroupNorm(groups, channels) if groups else nn.BatchNorm2d(channels)
    return nn.Sequential(convolution, norm, nn.ReLU())


def digits_cnn(num_classes: int = 10, in_channels: int = 1, dropout: float = 0.1) -> nn.Module:
    """For scikit-learn's 8 x 8 digits; 65,834 parameters for 10 classes."""
    return SmallCNN((32, 64), num_classes, in_channels, dropout)


def fashion_cnn(num_classes: int = 10, in_channels: int = 1, dropout: float = 0.2) -> nn.Module:
    """For the 28 x 28 pictures of Fashion-MNIST or MNIST; 162,562 parameters for 10 classes."""
    return SmallCNN((24, 48, 96), num_classes, in_channels, dropout)


def parts_cnn(num_classes: int = 6, in_channels: int = 1, dropout: float = 0.1) -> nn.Module:
    """For machine parts on a conveyor, 32 to 64 pixels; 72,406 parameters for 6 classes."""
    return SmallCNN((16, 32, 64), num_classes, in_channels, dropout, stride=2)


def defects_cnn(num_classes: int = 6, in_channels: int = 1, dropout: float = 0.1) -> nn.Module:
    """For surface defects, 32 to 64 pixels, with GroupNorm; 162,174 parameters for 6 classes."""
    return SmallCNN((24, 48, 96), num_classes, in_channels, dropout, stride=2, groups=8)
