"""How `psedge run` starts each of its processes: their command lines and environment."""

from __future__ import annotations

import os
from pathlib import Path

from psedge.config import Experiment
from psedge.orders import RunOrder
from psedge.own_packages import packages_of
from psedge.protocol.address import Address
from psedge.run_folder import server_folder


def first_command(
    order: RunOrder, folder: Path, port: int, resume: bool, *, from_checkpoint: bool = False
) -> list[str]:
    """The process with the supervisor. port: 0 takes a free one."""
    arguments = ["server", str(order.config), "--port", str(port), "--data", str(order.data)]
    arguments += ["--out", str(folder)]
    for override in order.overrides:
        arguments += ["--set", override]
    arguments += ["--resume"] if resume else []
    return [*arguments, "--from-checkpoint"] if from_checkpoint else arguments


def server_command(supervisor: Address, folder: Path, index: int) -> list[str]:
    """A server that joins. folder: of the run."""
    store = server_folder(folder, index)
    return ["server", "--join", supervisor.url, "--port", "0", "--store", str(store)]


def worker_command(
    order: RunOrder, experiment: Experiment, supervisor: Address, name: str, index: int
) -> list[str]:
    pace = experiment.cluster.pace
    arguments = ["worker", "--join", supervisor.url, "--name", name]
    arguments += ["--device", order.device, "--data", str(order.data)]
    arguments += ["--pace", str(pace[index] if index < len(pace) else 1.0)]
    for package in dict.fromkeys((*order.allow, *packages_of(experiment))):
        arguments += ["--allow", package]
    return arguments


def thread_environment(experiment: Experiment) -> dict[str, str]:
    """Shares the cores among the workers: torch takes all of them for each process otherwise."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"OMP_NUM_THREADS": str(max(1, (cores or 1) // experiment.cluster.workers))}
