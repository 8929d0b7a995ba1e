"""A whole run from Python, with a model, data set and loss that are plain Python objects.

    python examples/run_from_python.py

Servers and workers run in this process, as threads and tasks; the wire between them is the real
one. `psedge.run("config.toml")` starts real processes instead, like `psedge run`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

import psedge

EPOCHS = 40


def spirals(samples: int, seed: int) -> TensorDataset:
    """Two interleaved spirals, the classic that no linear model separates."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 2, (samples,), generator=generator)
    angle = torch.rand(samples, generator=generator) * 3 * torch.pi
    radius = angle / (3 * torch.pi)
    turned = angle + torch.pi * label
    points = torch.stack([radius * torch.cos(turned), radius * torch.sin(turned)], dim=1)
    return TensorDataset(points + 0.02 * torch.randn(samples, 2, generator=generator), label)


def main() -> None:
    model = nn.Sequential(
        nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)
    )
    result = psedge.run(
        {
            "name": "spirals",
            "data": {"batch_size": 32},
            "schedule": {"kind": "cosine", "length": EPOCHS},
            "sync": {"mode": "ssp", "staleness_bound": 2},
            "cluster": {"servers": 2, "workers": 2},
            "checkpoint": {"evaluate_every_epochs": 10},
        },
        model=model,
        dataset=(spirals(2000, seed=1), spirals(500, seed=2)),
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2),
    )
    print(f"test accuracy {result.test_accuracy:.1%} after {result.samples_applied:,} samples")


if __name__ == "__main__":
    main()
