"""A real worker with a loop of its own that writes down when each of its pushes was acknowledged.

Everything is as in production but the gradient, which is constant and costs nothing, so that many
workers fit on few cores. One line of `--record` is one acknowledged push: monotonic seconds at
which the step began and ended, and the worker's completed steps. Two lines come before: `imported`
and `joined`, each with its moment, the second also with the worker's number.

    python benchmarks/pushing_worker.py --join http://127.0.0.1:7700 --name pi --record pi.txt
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from pathlib import Path
from typing import TextIO

import torch
from torch import nn

from psedge.api import Connection, connect
from psedge.worker.client import StopTraining


def main() -> None:
    imported = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--join", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--step-seconds", type=float, default=0.1)
    parser.add_argument("--parameters", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Linear(max(1, options.parameters // 10), 10, bias=False)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    with options.record.open("a", buffering=1) as record:
        print(f"imported {imported:.6f}", file=record)
        with connect(options.join, model, name=options.name, timeout_seconds=120) as run:
            number = run._joined().joined.worker
            print(f"joined {time.monotonic():.6f} {number}", file=record)
            try:
                push_until(stopping, run, model, options.step_seconds, record)
            except StopTraining as end:
                print(f"ended: {end}", flush=True)


def push_until(
    stopping: threading.Event,
    run: Connection,
    model: nn.Module,
    step_seconds: float,
    record: TextIO,
) -> None:
    """One push each `step_seconds`, the last of them finished; a late one is not made up for."""
    gradients = [torch.full_like(each, 1e-6) for each in model.parameters()]
    due = time.monotonic()
    while not stopping.is_set():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        began = time.monotonic()
        result = run.step(1)
        ended = time.monotonic()
        if result is not None:
            print(f"{began:.6f} {ended:.6f} {result.clock}", file=record)
        due = max(due + step_seconds, ended)
        stopping.wait(max(0.0, due - ended))


if __name__ == "__main__":
    main()
