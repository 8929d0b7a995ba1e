"""From stored pictures to a batch for a network: augmentation, then normalisation.

Pictures stay uint8 in memory, a quarter of float32, and are turned into float32 batch by batch:
a Raspberry Pi holds all of CIFAR-10 in 150 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from psedge.protocol.errors import DataError

#: Pixels of zeros around a picture before `crop` cuts its size out again (He et al. 2016, 4.2).
CROP_PADDING = 4

AUGMENTATIONS = ("crop", "flip")

Pictures = NDArray[Any]


@dataclass(frozen=True, slots=True)
class ImagePipeline:
    """What happens to a batch of pictures on its way to the network.

    mean, std: per channel, on the scale 0..1 for uint8 pictures and as stored for float ones.
    augment: names out of `AUGMENTATIONS`, applied to training batches in this order.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_augmentations(self.augment)

    def __call__(self, pictures: Pictures, generator: torch.Generator | None) -> Tensor:
        """float32 [batch, channels, height, width] out of uint8 or float NHWC pictures."""
        if generator is not None:
            pictures = augmented(pictures, self.augment, generator)
        scale = 255.0 if pictures.dtype == np.uint8 else 1.0
        factor = torch.tensor([1.0 / (scale * std) for std in self.std]).view(-1, 1, 1)
        offset = torch.tensor(
            [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        ).view(-1, 1, 1)
        batch = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        floats = batch.to(torch.float32, memory_format=torch.contiguous_format)
        return floats.mul_(factor).add_(offset)


def check_augmentations(names: tuple[str, ...]) -> None:
    """Raises DataError for a name that is not one of `AUGMENTATIONS`."""
    for name in names:
        if name not in AUGMENTATIONS:
            raise DataError(
                f"data.augment: there is no augmentation {name!r}; "
                f"choose from {', '.join(AUGMENTATIONS)}"
            )


def augmented(pictures: Pictures, names: tuple[str, ...], generator: torch.Generator) -> Pictures:
    """Randomly shifted (`crop`) and mirrored (`flip`) NHWC pictures, each by its own draw."""
    for name in names:
        if name == "crop":
            pictures = _cropped(pictures, generator)
        else:
            pictures = _flipped(pictures, generator)
    return pictures


def _cropped(pictures: Pictures, generator: torch.Generator) -> Pictures:
    count, height, width, _ = pictures.shape
    edge = CROP_PADDING
    padded = np.pad(pictures, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    shifts = torch.randint(2 * edge + 1, (count, 2), generator=generator).tolist()
    result = np.empty_like(pictures, order="C")
    for index, (top, left) in enumerate(shifts):
        result[index] = padded[index, top : top + height, left : left + width]
    return result


def _flipped(pictures: Pictures, generator: torch.Generator) -> Pictures:
    mirror = torch.randint(2, (len(pictures),), generator=generator).numpy().astype(bool)
    result: Pictures = pictures.copy(order="C")
    result[mirror] = pictures[mirror, :, ::-1]
    return result
