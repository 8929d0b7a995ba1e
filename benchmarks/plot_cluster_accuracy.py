"""Accuracy of a simulated cluster over virtual time, beside one process with the same samples.

    psedge simulate configs/seed-8nano-8rpi.toml --seed 1 --work real --data FOLDER \\
        --set 'model.precision="bfloat16"' --set worker.threads=1 --no-checks --out OUT/cluster
    python benchmarks/cifar10_single.py --data FOLDER --epochs 30 --out OUT/single.json
    python benchmarks/plot_cluster_accuracy.py OUT cluster-accuracy.png

The single process has no virtual time of its own: its epochs take what the profile of one device
says, as if that device trained alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from psedge.simulation.devices import Device, device_named

mpl.use("Agg")

ALONE = "jetson-nano"
SAMPLES, BATCH = 50_000, 128


def cluster(path: Path) -> list[tuple[float, float, float]]:
    """Epochs, virtual hours and per cent."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        (row["epoch"], row["seconds"] / 3600, 100 * row["evaluation"]["accuracy"])
        for row in rows
        if row["kind"] == "evaluation"
    ]


def single(path: Path) -> list[tuple[float, float, float]]:
    epoch_hours = SAMPLES / BATCH * Device(device_named(ALONE)).batch_seconds(BATCH) / 3600
    return [
        (row["epoch"], row["epoch"] * epoch_hours, 100 * row["accuracy"])
        for row in json.loads(path.read_text())
    ]


def main() -> None:
    folder, picture = Path(sys.argv[1]), Path(sys.argv[2])
    curves = (
        (single(folder / "single.json"), "one process, SGD, batches of 128", "#444444"),
        (cluster(folder / "cluster" / "metrics.jsonl"), "8 Nanos + 8 Pis, asp, q4", "#2a78d6"),
    )
    figure, (by_epoch, by_time) = plt.subplots(1, 2, figsize=(9.6, 4.0), dpi=130, sharey=True)
    for points, label, color in curves:
        epochs, hours, accuracy = zip(*points, strict=True)
        line = {"color": color, "marker": "o", "ms": 3.0, "lw": 1.6}
        by_epoch.plot(epochs, accuracy, label=f"{label}: {accuracy[-1]:.1f} %", **line)
        by_time.plot(hours, accuracy, **line)
    by_epoch.set(xlabel="epoch", ylabel="test accuracy, %", ylim=(20, 95))
    by_time.set(xlabel="virtual hours (black: one Jetson Nano alone)", xlim=(0, None))
    for axes in (by_epoch, by_time):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    by_epoch.legend(frameon=False, loc="lower right")
    figure.suptitle("ResNet-32 on CIFAR-10: the same samples", fontsize=11)
    figure.tight_layout()
    figure.savefig(picture)


if __name__ == "__main__":
    main()
