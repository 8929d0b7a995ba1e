"""An experiment: every room's own config, composed; TOML in, one resolved object out.

Values come from the defaults, then the file, then flags (`--set a.b=value`), and from nowhere
else. An unknown or wrong key is one line that names the nearest right key.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from psedge.compression.config import CompressionConfig
from psedge.server.config import (
    DurabilityConfig,
    OptimizerConfig,
    ReplicationConfig,
    ScheduleConfig,
    SyncConfig,
)
from psedge.worker.config import DataConfig, ModelConfig, WorkerConfig

#: What a config says where a program gave psedge.run a Python object that has no name.
OBJECT = "a Python object"


class SlowConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A time in which a device is slower, for instance because it is hot."""

    at: Annotated[float, Meta(ge=0, description="Virtual seconds since the start of the run.")]
    factor: Annotated[float, Meta(ge=1, description="How many times slower it then is.")]
    until: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="When it is over; absent: it stays slow."),
    ] = None


class DeviceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Machines of one kind that train; `psedge run` and `psedge server` only count them."""

    profile: Annotated[
        str,
        Meta(
            description="What they are, such as `raspberry-pi-4b`, `jetson-nano`, `pc`: a name in "
            "psedge/simulation/profiles.toml."
        ),
    ]
    count: Annotated[int, Meta(ge=1, description="How many of them.")] = 1
    link: Annotated[
        str,
        Meta(
            description="How each is connected: `gbe`, `fast-ethernet`, `20mbit`, `wifi-50`, ... "
            "All devices with the same Wi-Fi share it."
        ),
    ] = "gbe"
    name: Annotated[
        str,
        Meta(
            description="They are called NAME-1, NAME-2, ...; the profile's if empty. "
            "Letters, digits, `-`, `_` and `.`."
        ),
    ] = ""
    joins_at: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="Virtual seconds after which they join; absent: at the start."),
    ] = None
    leaves_at: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Virtual seconds after which they leave."),
    ] = None
    slows: Annotated[
        tuple[SlowConfig, ...], Meta(description="Times in which they are slower.")
    ] = ()


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
            "goes on with fewer, and admits more at any time. Where `[[cluster.devices]]` names "
            "them, leave it out: it is their number.",
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
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="A node silent for so long is taken for dead: it holds nobody back any "
            "more and its data goes to the others. Absent: measured for each node from how "
            "regularly it is heard (phi accrual, Hayashibara et al. 2004), 5 to 60 s.",
        ),
    ] = None
    supervisor_apart: Annotated[
        bool,
        Meta(
            description="Whether the first `psedge server` only supervises: all `servers` join it "
            "then, training does not notice when it is killed, and its machine needs no room for "
            "shards. `psedge run` starts it as a process, `psedge simulate` as a host more."
        ),
    ] = False
    range_batches: Annotated[
        int,
        Meta(
            ge=1,
            description="Batches that a worker is handed at a time, at the least. Small balances "
            "fast and slow workers at the end of training. A worker is given what it needs for "
            "20 s of work without the supervisor, and less and less towards the end; in `bsp`, "
            "whose runs repeat exactly, in ranges of just this size.",
        ),
    ] = 4
    pace: Annotated[
        tuple[float, ...],
        Meta(
            description="Factor by which `psedge run` slows down each worker, to try out a mixed "
            "cluster on one machine; missing entries are 1, those beyond `workers` are not used. "
            "Where there are `devices`, `psedge simulate` goes by them instead."
        ),
    ] = ()
    server_profile: Annotated[
        str, Meta(description="`psedge simulate` only: what each server runs on.")
    ] = "pc"
    server_link: Annotated[
        str,
        Meta(
            description="`psedge simulate` only: how each server is connected. It carries what "
            "all devices send and receive."
        ),
    ] = "gbe"
    devices: Annotated[
        tuple[DeviceConfig, ...],
        Meta(
            description="The machines that train, see below; empty: `workers` devices with the "
            "servers' profile and link."
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
    replication: ReplicationConfig = ReplicationConfig()
    durability: DurabilityConfig = DurabilityConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
