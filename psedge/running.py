"""`psedge.run`: a whole experiment from Python."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from torch import nn

from psedge.config import OBJECT, Experiment
from psedge.launch import run_experiment
from psedge.orders import RunOrder
from psedge.protocol.errors import ConfigError, TrainingError
from psedge.protocol.system_clock import SystemClock
from psedge.run_folder import choose_folder
from psedge.supervisor.recorder import Result
from psedge.supervisor.run_rows import RESULT_FILE
from psedge.toml_config import load_config, to_json, to_toml


def run(
    config: str | Path | Mapping[str, Any] | Experiment,
    *,
    overrides: Sequence[str] = (),
    model: str | nn.Module | Callable[..., nn.Module] | None = None,
    dataset: str | Any | None = None,
    loss: str | Callable[..., torch.Tensor] | None = None,
    metrics: Sequence[str] | Mapping[str, Callable[..., Any]] | None = None,
    optimizer: str | torch.optim.Optimizer | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    data: str | Path = "data",
    device: str = "auto",
    allow: Sequence[str] = (),
    console: Console | None = None,
) -> Result:
    """Train to the end and return what the run came to; its folder holds the rest.

    config: a TOML file, or a mapping of the same shape. overrides: `section.key=value` each.
    model, loss, optimizer: `module:function`, or Python objects; they replace what the config
    names. dataset: likewise; as objects a pair (train, test) of torch Datasets, or one of them.
    metrics: names, or functions of (output, target) by name. optimizer: torch.optim.SGD, Adam or
    AdamW over the parameters of `model`.
    out, resume, data, device, allow: as for `psedge run`. console: where progress is shown.

    With names only, servers and workers are processes of their own. With objects, which cannot
    travel to other processes without being pickled, they are tasks and threads of this one, and
    `model` holds the trained parameters afterwards.

    Raises UserError for mistakes and TrainingError when training could not go on.
    """
    given = {
        "model": model,
        "dataset": dataset,
        "loss": loss,
        "metrics": metrics,
        "optimizer": optimizer,
    }
    given = {key: value for key, value in given.items() if value is not None}
    names = {key: name_of(value) for key, value in given.items()}
    in_processes = all(name is not None for name in names.values())
    if resume and not in_processes:
        raise ConfigError("a run with Python objects cannot be resumed; give names instead")
    experiment = _experiment(config, overrides, names)
    folder = choose_folder(
        experiment.name or "psedge", None if out is None else Path(out), resume, _timestamp()
    )
    order = RunOrder(Path(), (), folder, resume, Path(data), device, tuple(allow))
    if in_processes:
        work = partial(_run_processes, experiment, order, console or Console())
    else:
        work = partial(_run_objects, experiment, given, order, console or Console())
    _outside_of_any_loop(work)
    return _result(folder)


def name_of(value: Any) -> str | None:
    """`module:name` of something that every process can import, the text of a text, else None."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return json.dumps(value)
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    if not callable(value) or module in ("", "__main__") or not name.isidentifier():
        return None
    found = getattr(sys.modules.get(module), name, None)
    return f"{module}:{name}" if found is value else None


def _experiment(
    config: str | Path | Mapping[str, Any] | Experiment,
    overrides: Sequence[str],
    names: Mapping[str, str | None],
) -> Experiment:
    """The config with everything that was given in its place, as a name or as OBJECT."""
    keys = {
        "model": "model.factory",
        "dataset": "data.dataset",
        "loss": "model.loss",
        "metrics": "model.metrics",
        "optimizer": "optimizer.factory",
    }
    placed = []
    for key, name in names.items():
        if key == "metrics":
            placed.append(f"{keys[key]}={name or '[]'}")
        elif key != "optimizer" or name is not None:
            placed.append(f"{keys[key]}={json.dumps(name or OBJECT)}")
    source = to_json(config) if isinstance(config, Experiment) else config
    return load_config(source, (*overrides, *placed))


def _run_processes(experiment: Experiment, order: RunOrder, console: Console) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"{experiment.name or 'psedge'}.toml"
        path.write_text(to_toml(experiment), encoding="utf-8")
        if run_experiment(msgspec.structs.replace(order, config=path), console):
            raise TrainingError(f"the run failed; see {order.out}")


def _run_objects(
    experiment: Experiment, given: Mapping[str, Any], order: RunOrder, console: Console
) -> None:
    from psedge.local_run import run_with_objects

    assert order.out is not None
    run_with_objects(experiment, given, order.out, order.data, order.device, console)


def _result(folder: Path) -> Result:
    try:
        return msgspec.json.decode((folder / RESULT_FILE).read_bytes(), type=Result)
    except FileNotFoundError as error:
        raise TrainingError(f"the run left no result in {folder}") from error


def _timestamp() -> float:
    return SystemClock().timestamp()


def _outside_of_any_loop(work: Callable[[], None]) -> None:
    """Run `work`, in another thread where this one's event loop is running, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        work()
        return
    with ThreadPoolExecutor(1, "psedge-run") as pool:
        pool.submit(work).result()
