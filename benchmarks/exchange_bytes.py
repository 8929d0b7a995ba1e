"""Bytes of an exchange: what ResNet-32 on CIFAR-10 sends and receives per push, by codec.

Each setting is a real run of one server and one worker; everything in frames counts: headers,
payloads, biases and norms as float32, BatchNorm statistics, and the snapshots that a worker gets at
join and at the start of its chain. HTTP's own headers, some 200 bytes each way, do not.

    python benchmarks/exchange_bytes.py --data FOLDER --out RUNS

FOLDER holds cifar10.npz or the binary version of CIFAR-10; RUNS is made and receives the runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

CONFIG = Path(__file__).parent.parent / "configs" / "cifar10-resnet32.toml"
#: Push, pull and lossless stage.
SETTINGS = (
    ("identity", "identity", "none"),
    ("q8", "q8", "none"),
    ("q4", "q4", "none"),
    ("q4", "q4", "zstd"),
    ("ecsq", "ecsq", "zstd"),
    ("top-k", "ecsq", "zstd"),
    ("adacomp", "ecsq", "zstd"),
)


def measure(data: Path, out: Path, pushes: int, push: str, pull: str, lossless: str) -> None:
    overrides = {
        "cluster.servers": 1,
        "cluster.workers": 1,
        "data.batch_size": 2,
        "schedule.unit": "samples",
        "schedule.length": 2 * pushes,
        "schedule.warmup": 0,
        "compression.push": push,
        "compression.pull": pull,
        "compression.lossless": lossless,
    }
    sets = [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]
    folder = out / f"{push}-{pull}-{lossless}"
    command = [sys.executable, "-m", "psedge", "run", str(CONFIG), "--data", str(data), *sets]
    subprocess.run([*command, "--out", str(folder)], check=True, stdout=subprocess.DEVNULL)
    result = json.loads((folder / "result.json").read_text())
    sent = result["bytes_pushed"] / result["pushes_applied"]
    received = result["bytes_pulled"] / result["pushes_applied"]
    print(
        f"{push:10} {pull:10} {lossless:6} {sent / 1e6:8.4f} {received / 1e6:8.4f} "
        f"{(sent + received) / 1e6:8.4f} MB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pushes", type=int, default=400)
    options = parser.parse_args()
    print(f"{'push':10} {'pull':10} {'stage':6} {'sent':>8} {'received':>8} {'both':>8}")
    for push, pull, lossless in SETTINGS:
        measure(options.data, options.out, options.pushes, push, pull, lossless)


if __name__ == "__main__":
    main()
