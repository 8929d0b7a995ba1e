"""ResNet-32 on CIFAR-10 in one process with torch.optim.SGD: what psedge is compared with.

Same model, samples, order of samples, augmentation, precision and learning rates as
`configs/cifar10-resnet32.toml` run by psedge; the batch is that of all its workers together.

    python benchmarks/cifar10_single.py --data FOLDER --epochs 10 --out single.json

FOLDER holds cifar10.npz or the binary version of CIFAR-10.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from psedge.worker.datasets import cifar10
from psedge.worker.datasets.order import permuted
from psedge.worker.evaluation import evaluate
from psedge.worker.models.table import MODELS
from psedge.worker.objectives import accuracy, cross_entropy


def lr_factor(samples: int, total: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine to 0."""
    if samples < warmup:
        return (samples + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (samples - warmup) / (total - warmup)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    train = cifar10.load(options.data, "train", augment=("crop", "flip"))
    test = cifar10.load(options.data, "test")
    model = MODELS["resnet32"]().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), options.lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    generator = torch.Generator().manual_seed(options.seed)
    samples, per_epoch = 0, len(train)
    total, warmup = options.epochs * per_epoch, per_epoch
    history = []
    started = time.monotonic()
    for epoch in range(options.epochs):
        model.train()
        order = permuted(np.arange(per_epoch), per_epoch, options.seed, epoch)
        for at in range(0, per_epoch, options.batch_size):
            inputs, targets = train.batch(order[at : at + options.batch_size], generator)
            for group in optimizer.param_groups:
                group["lr"] = options.lr * lr_factor(samples, total, warmup)
            with torch.autocast("cpu", torch.bfloat16):
                outputs = model(inputs.to(memory_format=torch.channels_last))
                loss = torch.nn.functional.cross_entropy(outputs, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            samples += len(targets)
        measured = evaluate(model, test, cross_entropy, {"accuracy": accuracy}, torch.device("cpu"))
        seconds = time.monotonic() - started
        history.append({"epoch": epoch + 1, "seconds": seconds, "accuracy": measured.accuracy})
        print(history[-1], flush=True)
        options.out.write_text(json.dumps(history, indent=1) + "\n")


if __name__ == "__main__":
    main()
