"""A model, data set, loss and metric of one's own, for `configs/custom-model.toml`.

    psedge run configs/custom-model.toml

The task: does a motor run well, by 128 readings of its vibration sensor? The readings are made
up here; put your own `Dataset` in their place.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

READINGS = 128

#: Classes: 0 healthy, 1 unbalanced rotor, 2 worn bearing, 3 loose mount.
CLASSES = 4


class VibrationNet(nn.Module):
    """Two convolutions along time, then a GRU, whose last state is classified."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(1, 16, 7, stride=2, padding=3),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.Conv1d(16, hidden, 5, stride=2, padding=2),
            nn.ReLU(),
        )
        self.recurrent = nn.GRU(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, readings: Tensor) -> Tensor:
        """Logits [batch, 4] of readings [batch, 128]."""
        features = self.convolutions(readings[:, None, :])
        states, _ = self.recurrent(features.transpose(1, 2))
        logits: Tensor = self.head(states[:, -1])
        return logits


def make_model(hidden: int = 32) -> nn.Module:
    """What `model.factory` names; `model.arguments` become its keyword arguments."""
    return VibrationNet(hidden)


def make_dataset(split: str, samples: int = 3000) -> Dataset[tuple[Tensor, ...]]:
    """What `data.dataset` names; called with split="train" or "test" and `data.arguments`."""
    count = samples if split == "train" else samples // 4
    generator = torch.Generator().manual_seed(11 if split == "train" else 12)
    label = torch.randint(CLASSES, (count,), generator=generator)
    return TensorDataset(_readings(label, generator), label)


def focal_loss(output: Tensor, target: Tensor, focus: float = 2.0) -> Tensor:
    """Cross entropy that cares less about what is right already (Lin et al. 2017)."""
    loss = functional.cross_entropy(output, target, reduction="none")
    return ((1 - torch.exp(-loss)) ** focus * loss).mean()


def alarm_accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Share of the motors for which it is right whether anything is wrong at all."""
    return ((output.argmax(dim=1) != 0) == (target != 0)).float().mean()


def _readings(label: Tensor, generator: torch.Generator) -> Tensor:
    count = len(label)
    draw = torch.rand(count, 4, generator=generator)
    time = torch.arange(READINGS) / READINGS
    speed = (5 + 4 * draw[:, :1]) * 2 * math.pi
    phase = 2 * math.pi * draw[:, 1:2]
    turn = speed * time + phase
    hum = 0.4 * torch.sin(turn)
    unbalanced = 0.5 * torch.sin(turn + 1)
    knocks = 1.2 * (torch.sin(3.6 * turn) > 0.9)
    rattle = 0.6 * torch.sin(0.5 * turn) + 0.3 * torch.sin(1.5 * turn)
    signals = torch.stack([torch.zeros_like(hum), unbalanced, knocks, rattle])
    chosen = signals[label, torch.arange(count)]
    noise = 0.3 * torch.randn(count, READINGS, generator=generator)
    return hum + (0.5 + draw[:, 3:4]) * chosen + noise
