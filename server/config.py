"""What the `[optimizer]`, `[schedule]` and `[sync]` sections of an experiment may say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta


class GroupConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters that deviate from the rest; the first group whose pattern matches is taken."""

    match: Annotated[
        str,
        Meta(
            description="Shell-style pattern on the parameter's name, such as `*.bias` or `head.*`."
        ),
    ]
    lr: Annotated[
        float | None, Meta(description="Learning rate of this group; absent: the optimizer's.")
    ] = None
    weight_decay: Annotated[
        float | None, Meta(description="Weight decay of this group; absent: the optimizer's.")
    ] = None


class OptimizerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The update rule that servers apply; the results equal torch.optim's."""

    kind: Annotated[
        Literal["sgd", "adam", "adamw"],
        Meta(
            description="Update rule. `sgd` keeps 4 further bytes a parameter on the servers when "
            "momentum is not 0, `adam` and `adamw` keep 8."
        ),
    ] = "sgd"
    lr: Annotated[float, Meta(gt=0, description="Learning rate before the schedule's factor.")] = (
        0.1
    )
    momentum: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="Momentum of `sgd`, as for one worker: see `momentum_adaptation` for many.",
        ),
    ] = 0.9
    dampening: Annotated[float, Meta(ge=0, le=1, description="Dampening of `sgd`'s momentum.")] = (
        0.0
    )
    nesterov: Annotated[bool, Meta(description="Nesterov momentum, `sgd` only.")] = False
    weight_decay: Annotated[
        float,
        Meta(
            ge=0,
            description="L2 penalty added to the gradient (`sgd`, `adam`) or decoupled (`adamw`).",
        ),
    ] = 0.0
    betas: Annotated[
        tuple[float, float],
        Meta(description="Decay rates of `adam`'s and `adamw`'s two moments, each in [0, 1)."),
    ] = (0.9, 0.999)
    eps: Annotated[float, Meta(gt=0, description="Added to `adam`'s denominator.")] = 1e-8
    groups: Annotated[
        tuple[GroupConfig, ...],
        Meta(description="Parameters with their own lr or weight decay; `[[optimizer.groups]]`."),
    ] = ()
    factory: Annotated[
        str,
        Meta(
            description="`module:function` that takes the model and returns a torch.optim.SGD, "
            "Adam or AdamW; its groups and settings then replace all of the above."
        ),
    ] = ""
    arguments: Annotated[dict[str, Any], Meta(description="Keyword arguments for `factory`.")] = {}
    momentum_adaptation: Annotated[
        bool,
        Meta(
            description="In `ssp` and `asp`, W workers that push independently act like a momentum "
            "of 1 - 1/W (Mitliagkas et al. 2016, Asynchrony begets momentum). So servers of W live "
            "workers take 1 - W * (1 - momentum), at least 0, instead of `sgd`'s momentum, and a "
            "rate as much larger as keeps the long-run step. Also with a `factory`; not in `bsp`, "
            "nor with `weight_prediction` or `local_steps`."
        ),
    ] = True
    delay_compensation: Annotated[
        float,
        Meta(
            ge=0,
            description="Strength of DC-ASGD (Zheng et al. 2017): in `ssp` and `asp`, servers add "
            "`delay_compensation` * g * g * (parameters now - parameters that g was computed on) "
            "to a gradient g, which undoes part of its staleness. 0: off; 0.04 is a common value. "
            "Keeps 4 bytes a parameter and worker on the servers.",
        ),
    ] = 0.0


class ScheduleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the learning rate changes with the samples seen; never with wall-clock time."""

    kind: Annotated[
        Literal["constant", "step", "cosine", "one-cycle"],
        Meta(
            description="`constant`; `step`: times `gamma` at each milestone; `cosine`: to "
            "`final_factor` at the end; `one-cycle`: from 1/25 up along a half cosine during "
            "`warmup` (0: 30 % of `length`), then down to `final_factor` along another "
            "(Smith and Topin 2018)."
        ),
    ] = "constant"
    unit: Annotated[
        Literal["epochs", "samples"],
        Meta(description="Unit of `length`, `warmup` and `milestones`."),
    ] = "epochs"
    length: Annotated[
        float,
        Meta(gt=0, description="How long to train, in `unit`. Fractions of an epoch are allowed."),
    ] = 10.0
    warmup: Annotated[
        float,
        Meta(
            ge=0,
            description="Linear rise from 0 to the full rate, in `unit`; steadies large batches.",
        ),
    ] = 0.0
    milestones: Annotated[
        tuple[float, ...], Meta(description="Where `step` lowers the rate, in `unit`, rising.")
    ] = ()
    gamma: Annotated[float, Meta(gt=0, description="Factor of `step` at each milestone.")] = 0.1
    final_factor: Annotated[
        float,
        Meta(ge=0, description="Factor on lr at the end of `cosine` and `one-cycle`."),
    ] = 0.0


class SyncConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far workers may drift apart."""

    mode: Annotated[
        Literal["bsp", "ssp", "asp"],
        Meta(
            description="`bsp`: one joint step per clock, equal to one large batch; as slow as the "
            "slowest worker. `ssp`: a worker may be `staleness_bound` steps ahead of the slowest. "
            "`asp`: nobody ever waits; fastest, and least accurate per sample."
        ),
    ] = "ssp"
    staleness_bound: Annotated[
        int,
        Meta(
            ge=0,
            description="Steps that a worker may be ahead of the slowest live one in `ssp`. "
            "0 is lockstep; 3 rides out a hiccup; more helps only against bursts of slowness.",
        ),
    ] = 3
    lag_bound: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Updates that others may have applied while a gradient was computed. "
            "Absent: no bound. A good value is 4 times the number of workers.",
        ),
    ] = None
    lag_action: Annotated[
        Literal["damp", "refuse"],
        Meta(
            description="What happens past `lag_bound`: `damp` scales the update by "
            "(lag_bound + 1) / (lag + 1); `refuse` drops it. Either brings fresh parameters."
        ),
    ] = "damp"
    weight_prediction: Annotated[
        bool,
        Meta(
            description="In `ssp` and `asp`, send workers the parameters as the momentum will have "
            "moved them by the time their push arrives, by the lag measured so far. Needs `sgd` "
            "with momentum; worth most with a momentum near 1 and a rate as much smaller "
            "(Chen et al. 2018, SpecTrain; Kosson et al. 2021, Pipelined Backpropagation at Scale)."
        ),
    ] = False
    local_steps: Annotated[
        int,
        Meta(
            ge=1,
            description="Optimizer steps a worker takes on its own before it pushes the sum of "
            "its changes. More saves that factor of network, and costs accuracy past some 10 to "
            "100 (Stich 2019; Douillard et al. 2023, DiLoCo).",
        ),
    ] = 1
    outer_lr: Annotated[
        float,
        Meta(
            gt=0,
            description="With `local_steps` > 1: rate of the servers' step along the workers' "
            "changes; 1 averages them.",
        ),
    ] = 1.0
    outer_momentum: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="With `local_steps` > 1: Nesterov momentum of that step; DiLoCo uses 0.9 "
            "with `outer_lr = 0.7`.",
        ),
    ] = 0.0


class ReplicationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many servers hold each part of the model, and what counts as having it."""

    replicas: Annotated[
        int,
        Meta(
            ge=1,
            description="Copies of each shard, each on another server, so at most as many as there "
            "are servers. With 2, the loss of any server loses nothing and stops nobody; each "
            "costs its server the memory and the work of another shard.",
        ),
    ] = 2
    acks: Annotated[
        Literal["primary", "replica", "all"],
        Meta(
            description="A push is acknowledged once it is in the log of the `primary`, of one "
            "backup too (`replica`), or of `all` copies. With `primary`, what the backups lack "
            "is lost with the primary; that is counted and reported."
        ),
    ] = "replica"
    digest_every: Annotated[
        int,
        Meta(
            ge=1,
            description="Log entries between two digests, by which backups prove that they are "
            "the same bit for bit; one that is not is made anew.",
        ),
    ] = 256


class DurabilityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What servers keep on their disks between checkpoints."""

    log: Annotated[
        Literal["off", "group", "always"],
        Meta(
            description="Whether each server writes accepted pushes to disk. `off`: after a power "
            "cut of all copies, training goes on from the last checkpoint. `group`: written at "
            "once and forced to disk every `sync_seconds`; a killed process loses nothing, a power "
            "cut at most that time. `always`: a push is in the log only when it is on the disk."
        ),
    ] = "off"
    sync_seconds: Annotated[
        float, Meta(gt=0, description="With `group`: time between two syncs; SD cards like more.")
    ] = 1.0
    segment_mb: Annotated[
        int, Meta(ge=1, description="Size in MB at which a log file is full and the next begins.")
    ] = 64
    snapshot_mb: Annotated[
        int,
        Meta(
            ge=1,
            description="MB of log after which a snapshot of the shard is written and log files "
            "before the snapshot that precedes it are removed. A server's disk holds at most two "
            "snapshots and twice this much log for each of its shards.",
        ),
    ] = 256
