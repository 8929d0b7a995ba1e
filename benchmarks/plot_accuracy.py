"""Test accuracy over epochs of the runs that `cifar10_accuracy.sh` left, as a picture.

python benchmarks/plot_accuracy.py OUT accuracy.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

mpl.use("Agg")

RUNS = (
    ("bsp", "psedge bsp, 4 workers", "#1f77b4", "-"),
    ("ssp", "psedge ssp, 4 workers, weight prediction", "#d62728", "-"),
    ("ssp-plain", "psedge ssp, 4 workers, without", "#d6a0a0", "--"),
)


def single(path: Path) -> list[tuple[float, float]]:
    return [(row["epoch"], 100 * row["accuracy"]) for row in json.loads(path.read_text())]


def run(path: Path) -> list[tuple[float, float]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    measured = [row for row in rows if row["kind"] == "evaluation"]
    return [(row["epoch"], 100 * row["evaluation"]["accuracy"]) for row in measured]


def main() -> None:
    folder, picture = Path(sys.argv[1]), Path(sys.argv[2])
    curves = [(single(folder / "single.json"), "one process, torch.optim.SGD", "#444444", "-")]
    curves += [
        (run(folder / name / "metrics.jsonl"), label, color, style)
        for name, label, color, style in RUNS
        if (folder / name).exists()
    ]
    figure, axes = plt.subplots(figsize=(7.2, 4.2), dpi=130)
    for points, label, color, style in curves:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, style, color=color, marker="o", ms=3.5, label=f"{label}: {y[-1]:.1f} %")
    axes.set(xlabel="epoch", ylabel="test accuracy, %", ylim=(20, 92))
    axes.set_title("ResNet-32 on CIFAR-10, same samples and schedule", fontsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(picture)


if __name__ == "__main__":
    main()
