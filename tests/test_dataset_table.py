"""From the `[data]` section of a config to a source: names, places, lines, limits, user data."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from psedge.protocol.errors import ConfigError, DataError
from psedge.worker.config import DataConfig
from psedge.worker.datasets.places import beneath, leaves_folder
from psedge.worker.datasets.source import Source
from psedge.worker.datasets.table import DATASETS, line_of, load
from psedge.worker.imports import AllowList

NONE = AllowList(())


def made(folder: Path, split: str = "train", worker_name: str = "", **config: object) -> Source:
    return load(DataConfig(**config), split, folder, NONE, worker_name=worker_name)  # type: ignore[arg-type]


def labels(source: Source) -> list[int]:
    return list(source.batch(np.arange(len(source)), None)[1].tolist())


def test_generated_data_need_no_files(tmp_path: Path) -> None:
    for name in ("digits", "parts", "defects"):
        data = made(tmp_path, dataset=name, augment=("flip",), train_limit=20)
        assert len(data) == 20
        assert data.batch(np.arange(20), torch.Generator())[0].ndim == 4


def test_limits_are_for_their_own_split(tmp_path: Path) -> None:
    config = {"dataset": "digits", "train_limit": 50, "test_limit": 10}
    assert len(made(tmp_path, **config)) == 50
    assert len(made(tmp_path, "test", **config)) == 10


def test_files_lie_beneath_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    np.savez(tmp_path / "own" / "mine.npz", x_train=np.zeros((3, 2)), y_train=np.arange(3))
    data = made(tmp_path, dataset="npz", path="own/mine.npz", arguments={"classes": 5})
    assert (len(data), data.classes) == (3, 5)


@pytest.mark.parametrize("path", ["/etc", "../else", "a/../../b", "~/photos", "C:\\x", "\\\\h\\x"])
def test_no_path_leads_out_of_the_data_folder(tmp_path: Path, path: str) -> None:
    assert leaves_folder(path)
    for name in DATASETS:
        with pytest.raises(DataError, match="leads out of the data folder"):
            made(tmp_path, dataset=name, path=path)


def test_plain_paths_stay() -> None:
    assert beneath(Path("data"), "own/mine.npz") == Path("data/own/mine.npz")
    assert beneath(Path("data"), "") == Path("data")
    assert not leaves_folder("a..b/c")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"dataset": "cifar10"}, r"CIFAR-10 is not in"),
        ({"dataset": "fashion-mnist"}, r"Fashion-MNIST is not in"),
        ({"dataset": "image-folder", "path": "photos"}, r"no folder .*photos"),
        ({"dataset": "npz"}, r"needs data\.path"),
        ({"dataset": "npz", "path": "mine.npz"}, r"no data file .*mine\.npz"),
        ({"dataset": "digits", "arguments": {"size": 9}}, r"no argument 'size'; it takes none"),
        ({"dataset": "parts", "arguments": {"split": "test"}}, r"'split'; it takes seed, samples"),
        ({"dataset": "parts", "arguments": {"samples": "many"}}, r"parts \(train\) cannot be made"),
        ({"dataset": "digits", "augment": ("rotate",)}, r"no augmentation 'rotate'"),
    ],
)
def test_mistakes_are_one_clear_error(tmp_path: Path, config: dict[str, object], told: str) -> None:
    with pytest.raises(DataError, match=told):
        made(tmp_path, **config)


def test_unknown_and_forbidden_data_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cifar10"):
        made(tmp_path, dataset="cifar100")
    with pytest.raises(ConfigError, match="--allow os"):
        made(tmp_path, dataset="os:listdir")


def test_a_local_worker_sees_one_production_line_and_tests_on_all(tmp_path: Path) -> None:
    config = {"dataset": "parts", "arguments": {"samples": 90, "test_samples": 30}}
    whole = labels(made(tmp_path, worker_name="worker-2", **config))
    assert len(whole) == 90
    local = {**config, "placement": "local"}
    for name, line in (("worker-1", 1), ("worker-2", 2), ("worker-3", 0)):
        assert labels(made(tmp_path, worker_name=name, **local)) == whole[line::3]
    assert len(made(tmp_path, "test", worker_name="worker-2", **local)) == 30
    chosen = {**local, "arguments": {"samples": 90, "line": 0}}
    assert labels(made(tmp_path, worker_name="worker-2", **chosen)) == whole[0::3]


def test_names_become_lines() -> None:
    assert [line_of(f"pi-{number}", 3) for number in (1, 2, 3, 10)] == [1, 2, 0, 1]
    assert 0 <= line_of("left-press", 3) < 3
    assert line_of("left-press", 3) == line_of("left-press", 3)
    assert line_of("", 4) == 0


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A user's module `own_data_sets`, and what its function was called with."""
    called: dict[str, object] = {}

    def numbers(split: str, **arguments: object) -> object:
        called.update(arguments, split=split)
        if arguments.get("fail"):
            raise FileNotFoundError("no numbers here")
        return TensorDataset(torch.arange(6.0)[:, None], torch.arange(6))

    numbers.__module__ = "own_data_sets"
    module = types.ModuleType("own_data_sets")
    module.numbers = numbers  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_data_sets", module)
    return called


def test_a_users_data_set(tmp_path: Path, own_module: dict[str, object]) -> None:
    allow = AllowList(("own_data_sets",))
    config = DataConfig(dataset="own_data_sets:numbers", arguments={"count": 6}, test_limit=2)
    data = load(config, "test", tmp_path, allow)
    assert labels(data) == [0, 1]
    assert own_module == {"split": "test", "count": 6}
    with_path = DataConfig(dataset="own_data_sets:numbers", path="numbers")
    load(with_path, "train", tmp_path, allow)
    assert own_module["path"] == tmp_path / "numbers"


def test_a_users_failure_is_told(tmp_path: Path, own_module: dict[str, object]) -> None:
    config = DataConfig(dataset="own_data_sets:numbers", arguments={"fail": True})
    with pytest.raises(DataError, match=r"numbers \(train\) .*FileNotFoundError: no numbers here"):
        load(config, "train", tmp_path, AllowList(("own_data_sets",)))
