"""Every shipped config can be read, builds its model, and fits its data and loss together."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from psedge.config import Experiment
from psedge.simulation.placement import server_places, worker_places
from psedge.toml_config import load_config
from psedge.worker.config import DataConfig
from psedge.worker.datasets.table import load
from psedge.worker.evaluation import evaluate
from psedge.worker.imports import AllowList
from psedge.worker.models.table import build
from psedge.worker.objectives import resolve_loss, resolve_metrics

REPOSITORY = Path(__file__).resolve().parents[1]

NAMES = (
    "cifar10-mobilenetv2",
    "cifar10-resnet32",
    "classroom-wifi",
    "custom-model",
    "defect-inspection",
    "digits-quickstart",
    "fashion-mnist-cnn",
    "parts-recognition",
    "seed-11-mixed",
    "seed-8nano-8rpi",
)

ALLOW = AllowList(("examples",))


def experiment(name: str) -> Experiment:
    return load_config(REPOSITORY / "configs" / f"{name}.toml", ())


def write_data(data: DataConfig, folder: Path) -> None:
    """Random pictures in the place and shape of the data sets that need files."""
    draw = np.random.default_rng(2)
    shape = {"cifar10": (32, 32, 3), "fashion-mnist": (28, 28)}.get(data.dataset)
    if shape is None:
        return
    place = folder / data.path
    place.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for split in ("train", "test"):
        arrays[f"x_{split}"] = draw.integers(0, 256, (64, *shape), dtype=np.uint8)
        arrays[f"y_{split}"] = draw.integers(0, 10, 64)
    np.savez(place / f"{data.dataset}.npz", **arrays)


def test_the_shipped_configs_are_these() -> None:
    assert tuple(sorted(file.stem for file in (REPOSITORY / "configs").glob("*.toml"))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_step_and_a_measurement(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(REPOSITORY)])
    chosen = experiment(name)
    assert chosen.name
    assert chosen.model is not None
    assert chosen.data is not None
    write_data(chosen.data, tmp_path)
    train = load(chosen.data, "train", tmp_path, ALLOW, worker_name="worker-1")
    model = build(chosen.model, ALLOW, chosen.seed)
    loss = resolve_loss(chosen.model, ALLOW)
    inputs, targets = train.batch(np.arange(8), torch.Generator().manual_seed(0))
    output = model(inputs)
    assert train.classes == output.shape[1] or chosen.data.dataset.startswith("examples.")
    loss(output, targets).backward()
    assert all(tensor.grad is not None for tensor in model.parameters())
    test = load(chosen.data, "test", tmp_path, ALLOW)
    few = test.batch(np.arange(8), None)[0]
    assert few.shape[1:] == inputs.shape[1:]
    metrics = resolve_metrics(chosen.model, ALLOW)
    if len(test) <= 1200:
        result = evaluate(model, test, loss, metrics, torch.device("cpu"))
        assert result.accuracy is not None
        assert 0 <= result.accuracy <= 1


@pytest.mark.parametrize(
    ("name", "workers"), [("seed-8nano-8rpi", 16), ("seed-11-mixed", 10), ("classroom-wifi", 12)]
)
def test_clusters_to_simulate_count_their_devices(name: str, workers: int) -> None:
    cluster = experiment(name).cluster
    assert cluster.workers == workers
    names = [place.name for place in worker_places(cluster)]
    assert len(set(names)) == workers
    assert len(server_places(cluster)) == cluster.servers
