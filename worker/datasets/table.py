"""The data sets that psedge reads, by the names that configs use."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from psedge.protocol.errors import DataError, PsedgeError
from psedge.worker.config import DataConfig
from psedge.worker.datasets import (
    cifar10,
    defects,
    digits,
    fashion_mnist,
    image_folder,
    npz,
    parts,
    torchvision_set,
)
from psedge.worker.datasets.places import beneath
from psedge.worker.datasets.production import LINES
from psedge.worker.datasets.source import DatasetSource, LimitedSource, Source
from psedge.worker.imports import AllowList, resolve

SPLITS = ("train", "test")

DATASETS: dict[str, Callable[..., Source]] = {
    "digits": digits.load,
    "parts": parts.load,
    "defects": defects.load,
    "cifar10": cifar10.load,
    "fashion-mnist": fashion_mnist.load,
    "npz": npz.load,
    "image-folder": image_folder.load,
}

#: Those with production lines: where placement is local each worker sees one of them.
_LINED = ("parts", "defects")

#: What psedge itself passes; a config's arguments cannot.
_OURS = ("path", "file", "split", "augment", "threads")

_TORCHVISION = ("torchvision:", "torchvision.datasets:")


def load(
    config: DataConfig, split: str, folder: Path, allow: AllowList, *, worker_name: str = ""
) -> Source:
    """One split of the data set that a config describes, as it lies on this machine.

    split: `train` or `test`. folder: the machine's data folder (`--data`).
    worker_name: picks the production line of `parts` and `defects` where placement is local.
    Raises DataError if the data are missing, damaged or empty, or the arguments do not fit;
    ConfigError if there is no such data set or this machine does not permit its import.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be train or test, got {split!r}")
    path = beneath(folder, config.path)
    if config.dataset in DATASETS:
        source = _shipped(config, split, path, worker_name)
    elif config.dataset.startswith(_TORCHVISION):
        source = _from_torchvision(config, split, path, allow)
    else:
        source = _from_user(config, split, path, allow)
    limit = config.train_limit if split == "train" else config.test_limit
    return source if limit is None else LimitedSource(source, limit)


def line_of(worker_name: str, lines: int) -> int:
    """The production line of a worker: the number its name ends in, else a hash of the name.

    The names `pi-1`, `pi-2` and `pi-3` get three different ones of three lines.
    """
    kept = worker_name.rstrip("0123456789")
    number = worker_name[len(kept) :]
    return (int(number) if number else zlib.crc32(worker_name.encode())) % lines


def _shipped(config: DataConfig, split: str, path: Path, worker_name: str) -> Source:
    name, loader = config.dataset, DATASETS[config.dataset]
    accepted = inspect.signature(loader).parameters
    _check_arguments(name, config.arguments, accepted)
    call: dict[str, Any] = {**config.arguments, "split": split, "augment": config.augment}
    if name in _LINED and split == "train" and config.placement == "local":
        call.setdefault("line", line_of(worker_name, call.get("lines", LINES)))
    if name == "npz" and not config.path:
        raise DataError("the data set npz needs data.path, such as data.path = 'mine.npz'")
    ours = {"path": path, "file": path, "threads": config.loader_threads}
    call.update({key: value for key, value in ours.items() if key in accepted})
    source: Source = _called(name, loader, call)
    return source


def _from_torchvision(config: DataConfig, split: str, path: Path, allow: AllowList) -> Source:
    name = config.dataset.partition(":")[2]
    return torchvision_set.load(
        name,
        path,
        split,
        allow,
        augment=config.augment,
        threads=config.loader_threads,
        arguments=config.arguments,
    )


def _from_user(config: DataConfig, split: str, path: Path, allow: AllowList) -> Source:
    """`module:function`, called with `split=`, the arguments, and `path=` if the config has one."""
    factory = resolve(config.dataset, DATASETS, allow, "data set")
    call: dict[str, Any] = {**config.arguments, "split": split}
    if config.path:
        call["path"] = path
    dataset = _called(config.dataset, factory, call)
    return DatasetSource(
        config.dataset, dataset, threads=config.loader_threads, augment=config.augment
    )


def _called(name: str, factory: Callable[..., Any], call: Mapping[str, Any]) -> Any:
    try:
        return factory(**call)
    except PsedgeError:
        raise
    except Exception as error:
        raise DataError(
            f"the data set {name} ({call['split']}) cannot be made: "
            f"{type(error).__name__}: {error}; see data.arguments"
        ) from error


def _check_arguments(
    name: str, arguments: Mapping[str, Any], accepted: Mapping[str, inspect.Parameter]
) -> None:
    free = [key for key in accepted if key not in _OURS]
    for key in arguments:
        if key not in free:
            raise DataError(
                f"data.arguments: the data set {name} takes no argument {key!r}; it takes "
                f"{', '.join(free) or 'none'}"
            )
