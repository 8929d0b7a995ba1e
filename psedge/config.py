"""An experiment: every room's own config, composed; TOML in, one resolved object out.

Values come from the defaults, then the file, then flags (`--set a.b=value`), and from nowhere
else. An unknown or wrong key is one line that names the nearest right key.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from psedge.compression.config import CompressionConfig
from psedge.server.config import OptimizerConfig, ScheduleConfig, SyncConfig
from psedge.worker.config import DataConfig, ModelConfig, WorkerConfig

#: What a config says where a program gave psedge.run a Python object that has no name.
OBJECT = "a Python object"


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many machines take part, and how their absence is noticed."""

    servers: Annotated[
        int,
        Meta(
            ge=1,
            description="Parameter servers, the first one included; each owns an equal share of "
            "the parameters. More servers share the load on network and memory. Training starts "
            "when all of them have joined.",
        ),
    ] = 1
    workers: Annotated[
        int,
        Meta(
            ge=1,
            description="Workers expected at the start (and started by `psedge run`). Training "
            "goes on with fewer, and admits more at any time.",
        ),
    ] = 1
    wait_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="How long the first worker waits for the others before training starts "
            "with those that are there.",
        ),
    ] = 10.0
    heartbeat_seconds: Annotated[
        float, Meta(gt=0, description="Time between two signs of life of a node.")
    ] = 1.0
    lease_seconds: Annotated[
        float,
        Meta(
            gt=0,
            description="A node silent for so long is taken for dead: it holds nobody back any "
            "more and its data goes to the others. Shorter reacts sooner; a loaded Pi on Wi-Fi "
            "needs some 10 s.",
        ),
    ] = 10.0
    range_batches: Annotated[
        int,
        Meta(
            ge=1,
            description="Batches that a worker is handed at a time. Small balances fast and slow "
            "workers at the end of training; large asks the supervisor less often.",
        ),
    ] = 4
    pace: Annotated[
        tuple[float, ...],
        Meta(
            description="`psedge run` only: factor by which each worker is slowed down, to try "
            "out a mixed cluster on one machine; missing entries are 1."
        ),
    ] = ()


class CheckpointConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept on disk, and how often the model is measured."""

    every_epochs: Annotated[
        float,
        Meta(
            gt=0,
            description="Epochs between checkpoints. A crash loses at most the work since the "
            "last one; each writes the model and the optimizer's state.",
        ),
    ] = 1.0
    every_seconds: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds between checkpoints at the most, for slow clusters and for "
            "workers with loops of their own, where epochs are long or unknown.",
        ),
    ] = 600.0
    keep: Annotated[int, Meta(ge=1, description="Checkpoints kept; older ones are removed.")] = 2
    evaluate_every_epochs: Annotated[
        float,
        Meta(gt=0, description="Epochs between measurements on the test data."),
    ] = 1.0


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One training run, completely described."""

    name: Annotated[str, Meta(description="Name of the experiment, part of its run folder's.")] = ""
    seed: Annotated[
        int,
        Meta(ge=0, description="Of initial parameters, order of samples and augmentation."),
    ] = 0
    model: Annotated[
        ModelConfig | None, Meta(description="Absent: the first `psedge.connect` brings the model.")
    ] = None
    data: Annotated[
        DataConfig | None, Meta(description="Absent: workers bring their own loops and data.")
    ] = None
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    sync: SyncConfig = SyncConfig()
    compression: CompressionConfig = CompressionConfig()
    worker: WorkerConfig = WorkerConfig()
    cluster: ClusterConfig = ClusterConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
