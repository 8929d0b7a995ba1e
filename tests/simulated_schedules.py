"""Random runs of the virtual world: a config and a fault schedule, both drawn from one number."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from psedge.config import Experiment
from psedge.simulation.faults.hosts import Hosts
from psedge.simulation.faults.kinds import Crash, DiskRot, Fault, Freeze, Partition, PowerCut
from psedge.simulation.faults.plan import FaultPlan
from psedge.simulation.faults.random_plan import default_random
from psedge.simulation.outcome import Order
from psedge.simulation.placement import hosts_of
from psedge.simulation.work import ProblemWork
from psedge.toml_config import load_config

#: A run that is not over by then hangs: faults end long before.
LIMIT_SECONDS = 900.0
#: Faults begin at once and end soon, at this multiple of the usual rates.
FAULTS_UNTIL_SECONDS = 40.0
FAULT_FACTOR = 8.0
#: Share of the schedules in which several servers are struck at the same time, and how far from
#: each other at most.
TOGETHER = 0.4
TOGETHER_SECONDS = 2.0
#: Share of those with logs on disk in which one of these is damaged.
ROT = 0.3
#: Share of the schedules with a fault of its own around the last pushes.
AT_THE_END = 0.2
#: How many pushes before the last one it strikes at most.
LAST_PUSHES = 6
#: Share of the schedules with three copies in which a backup lags behind when its primary dies.
LAGGING = 0.4
#: A backup that has not answered for two seconds is dropped; the primary dies sooner.
LAG_SECONDS = 1.8
SAMPLES = 256
BATCH_SIZE = 8
EPOCHS = 3
PUSH_CODECS = (
    "identity", "bfloat16", "q8", "q4", "ecsq", "sign", "ternary", "top-k", "adacomp", "power-sgd",
    "auto",
)  # fmt: skip
PULL_CODECS = ("identity", "bfloat16", "q8", "q4")


def schedule(seed: int, fault_factor: float = FAULT_FACTOR) -> tuple[Order, ProblemWork]:
    """The run with this number. fault_factor: 0 for none."""
    chance = random.Random(seed)
    experiment = drawn_experiment(chance)
    hosts = hosts_of(experiment.cluster)
    faults = default_random(hosts)
    rates = {
        group: {kind: rate * fault_factor for kind, rate in kinds.items()}
        for group, kinds in faults.rates.items()
    }
    faults = msgspec.structs.replace(faults, rates=rates, stop=FAULTS_UNTIL_SECONDS)
    together: tuple[Fault, ...] = ()
    if fault_factor:
        together = drawn_together(chance, hosts)
        if experiment.durability.log != "off":
            together += drawn_rot(chance, hosts)
        together += drawn_at_the_end(chance, hosts, experiment.sync.local_steps)
        if min(experiment.replication.replicas, experiment.cluster.servers) > 2:
            together += drawn_lag(chance, hosts)
    order = Order(
        experiment,
        seed=seed,
        plan=FaultPlan(together, faults),
        limit_seconds=LIMIT_SECONDS,
        lanes=False,
    )
    return order, ProblemWork(experiment, samples=SAMPLES)


def drawn_together(chance: random.Random, hosts: Hosts) -> tuple[Fault, ...]:
    """Two servers, or all there are, or one and the supervisor, struck at nearly the same time."""
    if chance.random() >= TOGETHER:
        return ()
    at = chance.uniform(2.0, FAULTS_UNTIL_SECONDS - 10.0)
    everyone = tuple(dict.fromkeys((hosts.supervisor, *hosts.servers)))
    roles = ["primary-0", "backup-0", f"primary-{len(hosts.servers) - 1}", hosts.supervisor]
    struck = everyone if chance.random() < 0.3 else tuple(dict.fromkeys(chance.sample(roles, 2)))
    return tuple(
        _severe(chance, host, everyone, round(at + chance.uniform(0.0, TOGETHER_SECONDS), 3))
        for host in struck
    )


def _severe(chance: random.Random, host: str, everyone: tuple[str, ...], at: float) -> Fault:
    seconds = round(chance.uniform(0.5, 10.0), 3)
    kind = chance.choice(["crash", "crash", "power-cut", "freeze", "apart", "apart"])
    if kind == "freeze":
        return Freeze(on=host, at=at, seconds=seconds)
    if kind == "power-cut":
        return PowerCut(on=host, at=at, restart_after=seconds)
    others = tuple(other for other in everyone if other != host)
    if kind == "apart" and others:
        # Workers still reach it, and may take it for the primary that it was.
        one_way = chance.random() < 0.3
        return Partition(between=(host, others), one_way=one_way, at=at, seconds=seconds + 8.0)
    return Crash(on=host, at=at, restart_after=seconds)


def drawn_rot(chance: random.Random, hosts: Hosts) -> tuple[Fault, ...]:
    """A log or a snapshot is damaged while a server is down, or has been for a while."""
    if chance.random() >= ROT:
        return ()
    at = round(chance.uniform(2.0, FAULTS_UNTIL_SECONDS - 10.0), 3)
    role = chance.choice([*hosts.servers, "primary-0", "backup-0"])
    outages = (
        Crash(on=role, at=at + 0.5, restart_after=2.0),
        PowerCut(on=role, at=at + 0.5, restart_after=2.0),
    )
    path = chance.choice(["segment", "segment", "snapshot"])
    return (DiskRot(on=role, path=path, at=at), chance.choice(outages))


def drawn_at_the_end(chance: random.Random, hosts: Hosts, local_steps: int) -> tuple[Fault, ...]:
    """While the last pushes are on their way: what counts for one shard may not count for all."""
    if chance.random() >= AT_THE_END:
        return ()
    pushes = EPOCHS * SAMPLES // (BATCH_SIZE * local_steps)
    after = f"push {pushes - chance.randrange(LAST_PUSHES)}"
    delay, seconds = round(chance.uniform(0.0, 0.3), 3), round(chance.uniform(1.0, 8.0), 3)
    worker = chance.choice(hosts.workers)
    kind = chance.choice(["parted", "parted", "crash", "power-cut"])
    if kind == "parted":
        parted = (worker, chance.choice(hosts.servers))
        return (Partition(between=parted, after=after, delay=delay, seconds=seconds),)
    struck = chance.choice([worker, hosts.supervisor, *hosts.servers])
    outage = Crash if kind == "crash" else PowerCut
    return (outage(on=struck, after=after, delay=delay, restart_after=seconds),)


def drawn_lag(chance: random.Random, hosts: Hosts) -> tuple[Fault, ...]:
    """One backup is cut off from a primary, which dies before that is found out."""
    if chance.random() >= LAGGING:
        return ()
    primary, backup = chance.sample(hosts.servers, 2)
    at = round(chance.uniform(2.0, FAULTS_UNTIL_SECONDS - 10.0), 3)
    dies_at = round(at + chance.uniform(0.2, LAG_SECONDS), 3)
    seconds = round(chance.uniform(1.0, 8.0), 3)
    return (
        Partition(between=(primary, backup), at=at, seconds=2 * LAG_SECONDS),
        Crash(on=primary, at=dies_at, restart_after=seconds),
    )


def drawn_experiment(chance: random.Random) -> Experiment:
    """A small cluster with any mode, codec, chain, log and number of copies that go together."""
    sync: dict[str, Any] = {"mode": chance.choice(["bsp", "ssp", "ssp", "asp"])}
    compression: dict[str, Any] = {
        "push": chance.choice(PUSH_CODECS),
        "pull": chance.choice(PULL_CODECS),
        "density": 0.1,
    }
    optimizer: dict[str, Any] = {"lr": 0.05, "momentum": 0.9}
    worker: dict[str, Any] = {}
    servers = chance.choice([1, 2, 2, 3, 3, 4])
    replication = {
        "replicas": chance.choice([1, 2, 2, 3, 3]),
        "acks": chance.choice(["primary", "replica", "replica", "all"]),
        "digest_every": chance.choice([1, 8, 256]),
    }
    durability = {
        "log": chance.choice(["off", "off", "group", "always"]),
        "sync_seconds": chance.choice([0.2, 1.0]),
        "snapshot_mb": 1,
        "segment_mb": 1,
    }
    extra = chance.choice(["", "", "overlap", "local", "shared", "compensate"])
    if sync["mode"] == "ssp":
        sync["staleness_bound"] = chance.choice([0, 1, 3])
    if sync["mode"] != "bsp" and chance.random() < 0.4:
        sync["lag_bound"] = chance.choice([1, 2, 4])
        sync["lag_action"] = chance.choice(["refuse", "refuse", "damp"])
    if extra == "overlap":
        worker["overlap"] = True
    elif extra == "local":
        sync["local_steps"] = 3
    elif extra == "shared":
        compression["pull_chain"] = "shared"
    elif extra == "compensate" and sync["mode"] != "bsp":
        # It reads what a worker has, which no copy and no log knows.
        optimizer["delay_compensation"] = 0.04
        replication["replicas"], durability["log"] = 1, "off"
    return load_config(
        {
            "model": {"factory": "mlp"},
            "data": {"dataset": "npz", "path": "problem.npz", "batch_size": BATCH_SIZE},
            "schedule": {"length": EPOCHS},
            "optimizer": optimizer,
            "sync": sync,
            "compression": compression,
            "worker": worker,
            "replication": replication,
            "durability": durability,
            "checkpoint": {"every_seconds": chance.choice([3, 8, 20])},
            "cluster": {
                "servers": servers,
                "supervisor_apart": chance.random() < 0.5,
                "range_batches": chance.choice([1, 2, 4]),
                **chance.choice([{}, {"lease_seconds": 5}, {"lease_seconds": 10}]),
                "devices": [{"profile": "raspberry-pi-4b", "count": chance.choice([1, 2, 3, 4])}],
            },
        }
    )
