"""torchvision's data sets, behind a stand-in for torchvision: psedge does not depend on it."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psedge.protocol.errors import ConfigError, DataError
from psedge.worker.config import DataConfig
from psedge.worker.datasets.source import Source
from psedge.worker.datasets.table import load
from psedge.worker.imports import AllowList


class VisionDataset:
    """The part of torchvision's class that psedge relies on."""

    def __init__(self, root: str, transform: Callable[[Image.Image], object]) -> None:
        self.root, self.transform = root, transform
        self.calls: dict[str, object] = {}

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[object, int]:
        return self.transform(Image.new("RGB", (10 + index, 12), (255, 0, 51))), index


class Trains(VisionDataset):
    def __init__(
        self, root: str, train: bool = True, transform: object = None, download: bool = False
    ) -> None:
        super().__init__(root, transform)  # type: ignore[arg-type]
        if not download:
            raise RuntimeError("Dataset not found")
        self.classes = ["a", "b", "c", "d", "e"] if train else ["a"]


class Splits(VisionDataset):
    def __init__(self, root: str, split: str = "train", transform: object = None) -> None:
        super().__init__(root, transform)  # type: ignore[arg-type]
        if split != "test":
            raise ValueError(f"unknown split {split}")


@pytest.fixture(autouse=True)
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("torchvision")
    datasets = types.ModuleType("torchvision.datasets")
    for kind in (VisionDataset, Trains, Splits):
        setattr(datasets, kind.__name__, kind)
    datasets.os_like = len  # type: ignore[attr-defined]
    package.datasets = datasets  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)


def made(folder: Path, dataset: str, split: str = "train", **arguments: object) -> Source:
    config = DataConfig(dataset=dataset, arguments=arguments, path="pictures")
    return load(config, split, folder, AllowList(()))


@pytest.mark.parametrize("prefix", ["torchvision:", "torchvision.datasets:"])
def test_pictures_are_scaled_to_one_size_and_to_minus_one_to_one(
    tmp_path: Path, prefix: str
) -> None:
    data = made(tmp_path, f"{prefix}Trains", download=True, resize=8)
    inputs, targets = data.batch(np.array([3, 0]), None)
    assert inputs.shape == (2, 3, 8, 8)
    assert np.allclose(inputs[0, :, 4, 4].numpy(), [1.0, -1.0, -0.6])
    assert targets.tolist() == [3, 0]
    assert data.classes == 5


def test_the_split_is_passed_on_as_the_data_set_wants_it(tmp_path: Path) -> None:
    assert made(tmp_path, "torchvision:Trains", "test", download=True).classes == 1
    assert len(made(tmp_path, "torchvision:Splits", "test")) == 4
    with pytest.raises(DataError, match="unknown split train"):
        made(tmp_path, "torchvision:Splits", "train")


def test_missing_files_are_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pictures: Dataset not found; .*download = true"):
        made(tmp_path, "torchvision:Trains")


def test_pictures_of_different_sizes_need_resize(tmp_path: Path) -> None:
    data = made(tmp_path, "torchvision:Splits", "test")
    with pytest.raises(DataError, match="do not stack"):
        data.batch(np.arange(2), None)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"root": "/"}, "cannot set 'root'"),
        ({"transform": "x"}, "cannot set 'transform'"),
        ({"annFile": "/etc/passwd"}, "outside of the data folder"),
        ({"years": 2012}, "no argument 'years'; it takes download"),
    ],
)
def test_a_config_cannot_reach_elsewhere(
    tmp_path: Path, arguments: dict[str, object], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        made(tmp_path, "torchvision:Trains", **arguments)


def test_only_data_set_classes_can_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="os_like"):
        made(tmp_path, "torchvision:os_like")
    with pytest.raises(ConfigError, match="Nothing"):
        made(tmp_path, "torchvision:Nothing")
