"""What a model costs: a device's time per sample, and the memory of whoever simulates a cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from psedge.compression.coding_plan import resolve_coding
from psedge.config import Experiment
from psedge.protocol.errors import ConfigError

#: Multiply-adds of ResNet-32 on one CIFAR-10 picture, forward, for which devices' rates hold.
RESNET32_MACS = 68_862_592
#: Python, torch and the program, before a model is made.
BASE_BYTES = 400_000_000
#: A worker's vectors as long as its parameters: parameters, gradient, received reply, and its model
#: with the gradients of that.
WORKER_VECTORS = 5
#: The servers' together: parameters, the supervisor's copy, a checkpoint being written.
SERVER_VECTORS = 3
#: Memory that is left alone.
SPARE_SHARE = 0.1


def model_factor(model: nn.Module, sample: torch.Tensor) -> float:
    """Multiply-adds per sample relative to ResNet-32 on CIFAR-10.

    sample: a batch of one. Layers that torch cannot count, such as recurrent ones, count as one
    multiply-add per parameter at the least. The model is left as it was.
    """
    counter = FlopCounterMode(display=False)
    with _measuring(model), torch.no_grad(), counter:
        model(sample)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    macs = max(counter.get_total_flops() / 2 / len(sample), parameters)
    return macs / RESNET32_MACS


def simulation_bytes(experiment: Experiment, parameters: int) -> int:
    """Memory that simulating an experiment takes, for a model of so many parameters."""
    fixed, per_worker = _vectors(experiment, parameters)
    return BASE_BYTES + 4 * parameters * (fixed + per_worker * experiment.cluster.workers)


def check_memory(
    experiment: Experiment, parameters: int, available_bytes: int | None = None
) -> None:
    """Raises ConfigError if a simulation does not fit into memory.

    available_bytes: None looks at this machine; what cannot be found out is not checked.
    """
    available = free_memory_bytes() if available_bytes is None else available_bytes
    if available is None:
        return
    needed, usable = simulation_bytes(experiment, parameters), int((1 - SPARE_SHARE) * available)
    if needed <= usable:
        return
    workers = experiment.cluster.workers
    fixed, per_worker = _vectors(experiment, parameters)
    fitting = (usable - BASE_BYTES - 4 * parameters * fixed) // max(4 * parameters * per_worker, 1)
    advice = f"simulate {fitting:,} at the most" if fitting >= 1 else "take a smaller model"
    raise ConfigError(
        f"{workers:,} worker{'s' if workers > 1 else ''} with a model of {parameters:,} parameters "
        f"would take {needed / 1e9:.1f} GB of this machine's memory, and {usable / 1e9:.1f} GB can "
        f"be had: {advice}"
        + (", or take a smaller model" if fitting >= 1 else ", or a machine with more memory")
    )


def free_memory_bytes() -> int | None:
    """What this process may still take; None where the system does not say."""
    found = [limit for limit in (_system_bytes(), _group_bytes()) if limit is not None]
    return min(found, default=None)


def _vectors(experiment: Experiment, parameters: int) -> tuple[int, int]:
    """Float32 vectors as long as the model: of all servers together, and of each worker."""
    optimizer, compression, cluster = (
        experiment.optimizer,
        experiment.compression,
        experiment.cluster,
    )
    coding, _ = resolve_coding(
        compression,
        mode=experiment.sync.mode,
        momentum=optimizer.momentum,
        parameters=parameters,
        workers=cluster.workers,
        servers=cluster.servers,
        seed=experiment.seed,
        compensates=optimizer.delay_compensation > 0,
    )
    state = {"adam": 2, "adamw": 2}.get(optimizer.kind, 1 if optimizer.momentum else 0)
    chained = coding.pull != "identity" and coding.chain == "worker"
    residual = coding.push != "identity"
    return SERVER_VECTORS + state, WORKER_VECTORS + residual + chained


def _system_bytes() -> int | None:
    """Linux says how much can be had without swapping; others how much there is."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _group_bytes() -> int | None:
    """What is left of a container's limit."""
    folder = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        return limit - int((folder / "memory.current").read_text(encoding="ascii"))
    return None


@contextlib.contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    """In evaluation, so that one sample is enough for any norm and no statistics move."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
