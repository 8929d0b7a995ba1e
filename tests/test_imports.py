"""A config reaches what the operator permitted, and nothing else."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from psedge.protocol.errors import ConfigError, DataError, ModelError
from psedge.worker.imports import AllowList, resolve

TABLE: dict[str, Callable[..., Any]] = {"mlp": dict, "resnet32": list}


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    package = types.ModuleType("mine")
    package.__path__ = []  # type: ignore[attr-defined]
    module = types.ModuleType("mine.nets")
    source = """
from os import system
import os
import functools
def net(width=3): return width
class Net: pass
answer = 42
_hidden = net
"""
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, "mine", package)
    monkeypatch.setitem(sys.modules, "mine.nets", module)
    return module


def test_names_in_the_table_need_no_permission() -> None:
    assert resolve("mlp", TABLE, AllowList(), "model") is dict


def test_a_permitted_package_is_reached_with_its_submodules(mine: types.ModuleType) -> None:
    assert resolve("mine.nets:net", TABLE, AllowList(["mine"]), "model") is mine.net
    assert resolve("mine.nets:Net", TABLE, AllowList(["mine.nets"]), "model") is mine.Net


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("resnet23", "did you mean 'resnet32'"),
        ("unheard-of", "there are mlp, resnet32"),
        ("os:system", "--allow os"),
        ("mine_too:net", "--allow mine_too"),
        ("mine.nets:system", "only imported there, from posix"),
        ("mine.nets:os", "not a function or class"),
        ("mine.nets:answer", "not a function or class"),
        ("mine.nets:nett", "did you mean 'net'"),
        ("mine.nets:_hidden", "one plain name"),
        ("mine.nets:Net.__init__", "one plain name"),
        ("mine.nets:net:net", "one plain name"),
        ("mine..nets:net", "one plain name"),
        ("mine.nets:", "one plain name"),
        (":net", "one plain name"),
        ("mine.absent:net", "importing 'mine.absent' failed"),
        ("psedge.protocol.disk:Disk", "psedge's own are named without a module"),
        ("torchvision.io:read_file", "only `torchvision.models:NAME`"),
    ],
)
def test_everything_else_is_refused(reference: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(reference, TABLE, AllowList(["mine"]), "model")
    assert reason in str(caught.value)


def test_a_packages_neighbour_is_not_permitted() -> None:
    assert not AllowList(["mine.nets"]).permits("mine")
    assert not AllowList(["mine"]).permits("mineral")
    assert not AllowList(["psedge", "torchvision"]).permits("torchvision.io")


@pytest.mark.parametrize("name", ["", "my-package", "a b", "x:y", "../x"])
def test_allow_takes_names_of_packages(name: str) -> None:
    with pytest.raises(ConfigError, match="not the name of a package"):
        AllowList([name])


def _torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with torchvision's names, since the real one need not be installed."""
    import torch

    root, models, datasets = (
        types.ModuleType(name)
        for name in ("torchvision", "torchvision.models", "torchvision.datasets")
    )

    def resnet18(*, weights: Any = None, num_classes: int = 1000) -> Any:
        return weights, num_classes

    class VisionDataset:
        pass

    class Flowers(VisionDataset):
        pass

    models.resnet18 = resnet18  # type: ignore[attr-defined]
    models.ResNet = type("ResNet", (torch.nn.Module,), {})  # type: ignore[attr-defined]
    models.list_models = lambda module: ["resnet18"]  # type: ignore[attr-defined]
    datasets.VisionDataset = VisionDataset  # type: ignore[attr-defined]
    datasets.Flowers = Flowers  # type: ignore[attr-defined]
    datasets.download = lambda: None  # type: ignore[attr-defined]
    root.models, root.datasets = models, datasets  # type: ignore[attr-defined]
    for module in (root, models, datasets):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_torchvision_models_come_without_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    _torchvision(monkeypatch)
    reference = "torchvision.models:resnet18"
    make = resolve(reference, {}, AllowList(), "model")
    assert make(weights="DEFAULT", num_classes=7) == (None, 7)
    first = resolve(reference, {}, AllowList(), "model", pretrained=True)
    assert first(weights="DEFAULT", num_classes=7) == ("DEFAULT", 7)


def test_of_torchvision_only_models_and_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    _torchvision(monkeypatch)
    assert resolve("torchvision.datasets:Flowers", {}, AllowList(), "data set")
    assert resolve("torchvision.models:ResNet", {}, AllowList(), "model")
    with pytest.raises(ConfigError, match="not a data set class"):
        resolve("torchvision.datasets:download", {}, AllowList(), "data set")
    with pytest.raises(ConfigError, match="does not make a model"):
        resolve("torchvision.models:list_models", {}, AllowList(), "model")


def test_a_torchvision_that_cannot_be_imported_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(name: str) -> Any:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ModelError, match=r"nms does not exist.*matches this torch"):
        resolve("torchvision.models:resnet18", {}, AllowList(), "model")
    with pytest.raises(DataError, match="image-folder"):
        resolve("torchvision.datasets:Flowers", {}, AllowList(), "data set")


def test_a_missing_torchvision_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.models", raising=False)
    with pytest.raises(ModelError, match="torchvision is not installed"):
        resolve("torchvision.models:resnet18", {}, AllowList(), "model")
