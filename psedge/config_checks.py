"""What the types of a config cannot say: rules that tie several keys together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from psedge.coding_checks import coding
from psedge.config import Experiment
from psedge.device_checks import device_rules
from psedge.protocol.errors import ConfigError

#: Yields one sentence per broken rule, beginning with the key's section.
Rule = Callable[[Experiment], Iterator[str]]


def check(experiment: Experiment, place: str) -> None:
    """Raises ConfigError with the first broken rule. place: where the config comes from."""
    for rule in RULES:
        for complaint in rule(experiment):
            raise ConfigError(f"{place}: {complaint}")


def _finite(experiment: Experiment) -> Iterator[str]:
    """TOML has `inf` and `nan`; no key has a use for them."""
    optimizer, schedule = experiment.optimizer, experiment.schedule
    for key, value in (
        ("[optimizer] lr", optimizer.lr),
        ("[optimizer] weight_decay", optimizer.weight_decay),
        ("[optimizer] momentum", optimizer.momentum),
        ("[optimizer] eps", optimizer.eps),
        ("[optimizer] delay_compensation", optimizer.delay_compensation),
        ("[schedule] length", schedule.length),
        ("[schedule] warmup", schedule.warmup),
        ("[schedule] gamma", schedule.gamma),
        ("[checkpoint] every_epochs", experiment.checkpoint.every_epochs),
        ("[cluster] lease_seconds", experiment.cluster.lease_seconds),
        ("[cluster] wait_seconds", experiment.cluster.wait_seconds),
        ("[durability] sync_seconds", experiment.durability.sync_seconds),
    ):
        if value is not None and not math.isfinite(value):
            yield f"{key} = {value}: expected a finite number"


def _optimizer(experiment: Experiment) -> Iterator[str]:
    optimizer = experiment.optimizer
    if not all(0 <= beta < 1 for beta in optimizer.betas):
        yield f"[optimizer] betas = {list(optimizer.betas)}: each must be at least 0 and below 1"
    if optimizer.nesterov and optimizer.kind != "sgd":
        yield f'[optimizer] nesterov = true is for kind = "sgd", not "{optimizer.kind}"'
    if optimizer.nesterov and (optimizer.momentum == 0 or optimizer.dampening != 0):
        yield "[optimizer] nesterov = true needs momentum above 0 and dampening = 0"
    for group in optimizer.groups:
        for name, value in (("lr", group.lr), ("weight_decay", group.weight_decay)):
            if value is not None and not 0 <= value < math.inf:
                yield (
                    f'[optimizer.groups] {name} = {value} of match = "{group.match}": '
                    "must not be negative"
                )
    if optimizer.arguments and not optimizer.factory:
        yield "[optimizer] arguments are for a factory, and there is none"


def _schedule(experiment: Experiment) -> Iterator[str]:
    schedule = experiment.schedule
    stones = schedule.milestones
    if stones and schedule.kind != "step":
        yield f'[schedule] milestones belong to kind = "step", not "{schedule.kind}"'
    if schedule.kind == "step" and not stones:
        yield '[schedule] kind = "step" needs milestones, such as milestones = [100, 150]'
    if list(stones) != sorted(set(stones)) or any(stone <= 0 for stone in stones):
        yield f"[schedule] milestones = {list(stones)}: must be above 0 and rise"
    if stones and stones[-1] >= schedule.length:
        yield (
            f"[schedule] milestones = {list(stones)}: the last one is not before the end, "
            f"length = {schedule.length:g} {schedule.unit}"
        )
    if schedule.warmup >= schedule.length:
        yield (
            f"[schedule] warmup = {schedule.warmup:g} is not shorter than "
            f"length = {schedule.length:g} {schedule.unit}"
        )
    if schedule.kind == "one-cycle" and schedule.warmup == 0:
        yield '[schedule] kind = "one-cycle" needs a warmup to rise in'


def _prediction(experiment: Experiment) -> Iterator[str]:
    optimizer, sync = experiment.optimizer, experiment.sync
    if not sync.weight_prediction or optimizer.factory:
        return
    if optimizer.kind != "sgd" or optimizer.momentum == 0 or sync.local_steps > 1:
        yield (
            '[sync] weight_prediction = true needs [optimizer] kind = "sgd" with momentum above 0, '
            "and local_steps = 1"
        )


def _compensation(experiment: Experiment) -> Iterator[str]:
    """Servers must know on which parameters a gradient was computed, and that they moved since."""
    strength, sync = experiment.optimizer.delay_compensation, experiment.sync
    if not strength:
        return
    where = f"[optimizer] delay_compensation = {strength:g}"
    if sync.mode == "bsp":
        yield f'{where} is for [sync] mode = "ssp" or "asp": in "bsp" no gradient is stale'
    if sync.local_steps > 1:
        yield f"{where} cannot go with [sync] local_steps = {sync.local_steps}"
    compression = experiment.compression
    if compression.pull_chain == "shared" and compression.pull != "identity":
        yield (
            f'{where} cannot go with [compression] pull_chain = "shared": servers must know the '
            "model of each worker"
        )
    copies = min(experiment.replication.replicas, experiment.cluster.servers)
    if copies > 1:
        yield (
            f"{where} cannot go with [replication] replicas = {copies}: servers correct by what "
            "they sent to each worker, which no other copy knows; set replicas = 1"
        )
    if experiment.durability.log != "off":
        yield (
            f'{where} cannot go with [durability] log = "{experiment.durability.log}": servers '
            "correct by what they sent to each worker, which is in no log"
        )
    if experiment.worker.overlap:
        yield (
            f"{where} cannot go with [worker] overlap = true: gradients are then computed on "
            "older parameters than servers know of"
        )


def _worker(experiment: Experiment) -> Iterator[str]:
    local_steps = experiment.sync.local_steps
    if local_steps > 1 and experiment.worker.overlap:
        yield (
            f"[worker] overlap = true cannot go with [sync] local_steps = {local_steps}: "
            "local steps already keep the network idle; choose one"
        )
    if local_steps > 1 and experiment.worker.accumulate > 1:
        yield (
            f"[worker] accumulate = {experiment.worker.accumulate} cannot go with [sync] "
            f"local_steps = {local_steps}: take a larger batch_size instead"
        )


def _parts(experiment: Experiment) -> Iterator[str]:
    if experiment.data is not None and experiment.model is None:
        yield "[data] without [model]: name the model, or remove [data] to bring your own loop"
    if experiment.model is not None and experiment.data is None:
        yield "[model] without [data]: name the data set, or remove [model] to bring your own loop"
    if experiment.data is not None:
        path = experiment.data.path
        outside = path.startswith(("/", "~")) or ".." in path.replace("\\", "/").split("/")
        if outside or path[1:2] == ":":
            yield (
                f'[data] path = "{path}" leaves the data folder: make it relative, and say '
                "where the folder is with --data"
            )


def _cluster(experiment: Experiment) -> Iterator[str]:
    cluster = experiment.cluster
    lease = cluster.lease_seconds
    if lease is not None and lease <= 2 * cluster.heartbeat_seconds:
        yield (
            f"[cluster] lease_seconds = {lease:g} must be more than twice "
            f"heartbeat_seconds = {cluster.heartbeat_seconds:g}, or one lost heartbeat kills"
        )
    if any(not 1 <= pace < math.inf for pace in cluster.pace):
        yield f"[cluster] pace = {list(cluster.pace)}: 1 is full speed, 3 is three times slower"


RULES: tuple[Rule, ...] = (
    _finite,
    _optimizer,
    _schedule,
    _prediction,
    _compensation,
    _worker,
    _parts,
    device_rules,
    _cluster,
    coding,
)
