"""A run with Python objects: what was given, completed by what the config names."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from psedge.config import Experiment
from psedge.local_cluster import LocalCluster, Objects
from psedge.own_packages import own_allow_list
from psedge.prepare import built_model
from psedge.protocol.errors import ConfigError, DataError, ModelError
from psedge.protocol.status import Status
from psedge.protocol.system_clock import SystemClock
from psedge.terminal.conclusion import conclude
from psedge.terminal.screen import screen_for
from psedge.worker.datasets.source import DatasetSource, Source
from psedge.worker.datasets.table import load
from psedge.worker.device import choose_device
from psedge.worker.objectives import Metric, resolve_loss, resolve_metrics


def run_with_objects(
    experiment: Experiment,
    given: Mapping[str, Any],
    folder: Path,
    data: Path,
    device: str,
    console: Console,
) -> None:
    """Train in this process; the result is in the run folder.

    given: objects by what they are for; text and what is missing is taken from the config.
    Raises UserError for mistakes and TrainingError when training could not go on.
    """
    objects = _objects(experiment, given, data, device)
    screen = screen_for(console)
    started = SystemClock().timestamp()
    cluster = LocalCluster(experiment, objects, folder, screen, notify=lambda text: None)
    try:
        status = asyncio.run(_interruptible(cluster))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        screen.close()
    conclude(status, folder, console, started, of_objects=True)


async def _interruptible(cluster: LocalCluster) -> Status:
    """Run the cluster; Ctrl-C ends it in order, a second one at once."""
    loop, work = asyncio.get_running_loop(), asyncio.ensure_future(cluster.run())
    asked = False

    def interrupted() -> None:
        nonlocal asked
        if asked or not cluster.stop("stopped by Ctrl-C"):
            work.cancel()
        asked = True

    # Only the main thread may listen for signals; in any other, nobody sends it one.
    with contextlib.suppress(ValueError, RuntimeError):
        loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        return await work
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _objects(experiment: Experiment, given: Mapping[str, Any], data: Path, device: str) -> Objects:
    if experiment.model is None or experiment.data is None:
        missing = "model" if experiment.model is None else "dataset"
        raise ConfigError(f"psedge.run needs a {missing}: in the config, or as {missing}=...")
    allow = own_allow_list(experiment)
    model = given.get("model")
    if not isinstance(model, nn.Module):
        model = model() if callable(model) else built_model(experiment)
    if not isinstance(model, nn.Module):
        raise ModelError(f"model= must be a torch.nn.Module, not {type(model).__name__}")
    train, test = _sources(experiment, given.get("dataset"), data)
    loss: Any = given.get("loss")
    metrics: Any = given.get("metrics")
    optimizer = given.get("optimizer")
    return Objects(
        model=model.to(choose_device(device)),
        train=train,
        test=test,
        loss=loss if callable(loss) else resolve_loss(experiment.model, allow),
        metrics=_metrics(metrics) or dict(resolve_metrics(experiment.model, allow)),
        optimizer=optimizer if isinstance(optimizer, torch.optim.Optimizer) else None,
    )


def _metrics(given: Any) -> dict[str, Metric]:
    return dict(given) if isinstance(given, Mapping) else {}


def _sources(experiment: Experiment, given: Any, data: Path) -> tuple[Source, Source | None]:
    """Training and test samples."""
    config = experiment.data
    assert config is not None
    if given is None or isinstance(given, str):
        allow = own_allow_list(experiment)
        return load(config, "train", data, allow), load(config, "test", data, allow)
    make: Callable[..., Source] = DatasetSource
    pair = given if isinstance(given, tuple) else (given, None)
    if callable(given):
        pair = (given(split="train"), given(split="test"))
    if len(pair) != 2:
        raise DataError("dataset= must be a torch Dataset, or a pair (train, test) of them")
    train, test = (
        None
        if part is None
        else make(f"{split} data", part, threads=config.loader_threads, augment=config.augment)
        for split, part in zip(("training", "test"), pair, strict=True)
    )
    if train is None:
        raise DataError("dataset= has no training data")
    return train, test
