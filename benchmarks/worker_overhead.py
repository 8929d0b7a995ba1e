"""What psedge costs one worker: samples per second against the bare torch loop, in one run.

Both train ResNet-32 on the same batch of 64 random pictures with one torch thread. The bare loop
is forward, backward, torch.optim.SGD; psedge's is the same with `ps.step()` instead of the
optimizer, against one `psedge server` in a process of its own. They take turns, in four processes
that make the two models in either order.

    python benchmarks/worker_overhead.py                 # waits for each reply
    python benchmarks/worker_overhead.py --overlap       # worker.overlap = true
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import psedge
from psedge.worker.models.table import MODELS

BATCH = 64


def rate(step: Callable[[], None], steps: int) -> float:
    """Samples per second over `steps` steps."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * BATCH / (time.perf_counter() - started)


def new_model() -> nn.Module:
    torch.manual_seed(0)
    return MODELS["resnet32"]().to(memory_format=torch.channels_last)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def measure(url: str, rounds: int, steps: int, psedge_first: bool) -> list[tuple[float, float]]:
    """Samples per second of psedge and of the bare loop, pair by pair.

    psedge_first: whose model is made first. Where a model lies in memory moves its speed by more
    than what is measured here, and whoever comes first tends to lie better.
    """
    torch.set_num_threads(1)
    loss_fn = nn.CrossEntropyLoss()
    x = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (BATCH,))
    first, second = new_model(), new_model()
    ours, bare = (first, second) if psedge_first else (second, first)
    bare_optimizer = optimizer_of(bare)
    ps = psedge.connect(url, ours, optimizer=optimizer_of(ours), notify=lambda text: None)

    def bare_step() -> None:
        bare_optimizer.zero_grad()
        loss_fn(bare(x), y).backward()
        bare_optimizer.step()

    def psedge_step() -> None:
        loss_fn(ours(x), y).backward()
        ps.step()

    for step in (psedge_step, bare_step) if psedge_first else (bare_step, psedge_step):
        rate(step, 3)
    pairs = [(rate(psedge_step, steps), rate(bare_step, steps)) for _ in range(rounds)]
    ps.close()
    return pairs


def summary(pairs: list[tuple[float, float]]) -> dict[str, object]:
    ratios = [ours / bare for ours, bare in pairs]
    return {
        "psedge_samples_per_second": statistics.median(pair[0] for pair in pairs),
        "bare_samples_per_second": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="pairs in each of four processes")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--overlap", action="store_true")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        overlap = f"worker.overlap={str(options.overlap).lower()}"
        server = subprocess.Popen(
            [sys.executable, "-m", "psedge", "server", "--port", "0", "--out", f"{folder}/run",
             "--set", overlap, "--set", "compression.push=identity",
             "--set", "compression.pull=identity"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
            cwd=Path.cwd(),
        )  # fmt: skip
        try:
            assert server.stdout is not None
            found = re.search(r"(http://\S+)", server.stdout.readline())
            assert found, "the server did not start"
            pairs: list[tuple[float, float]] = []
            for psedge_first in (True, False, True, False):
                with context.Pool(1) as pool:
                    arguments = (found[1], options.rounds, options.steps, psedge_first)
                    pairs += pool.apply(measure, arguments)
            print(json.dumps(summary(pairs), indent=1))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
