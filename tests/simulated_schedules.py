"""Random runs of the virtual world: a config and a fault schedule, both drawn from one number."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from psedge.config import Experiment
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
SAMPLES = 256
PUSH_CODECS = (
    "identity", "bfloat16", "q8", "q4", "ecsq", "sign", "ternary", "top-k", "adacomp", "power-sgd",
    "auto",
)  # fmt: skip
PULL_CODECS = ("identity", "bfloat16", "q8", "q4")


def schedule(seed: int, fault_factor: float = FAULT_FACTOR) -> tuple[Order, ProblemWork]:
    """The run with this number. fault_factor: 0 for none."""
    experiment = drawn_experiment(random.Random(seed))
    hosts = hosts_of(experiment.cluster)
    faults = default_random(hosts)
    rates = {
        group: {kind: rate * fault_factor for kind, rate in kinds.items()}
        for group, kinds in faults.rates.items()
    }
    faults = msgspec.structs.replace(faults, rates=rates, stop=FAULTS_UNTIL_SECONDS)
    order = Order(
        experiment,
        seed=seed,
        plan=FaultPlan(random=faults),
        limit_seconds=LIMIT_SECONDS,
        lanes=False,
    )
    return order, ProblemWork(experiment, samples=SAMPLES)


def drawn_experiment(chance: random.Random) -> Experiment:
    """A small cluster with any mode, codec, chain and number of servers that go together."""
    sync: dict[str, Any] = {"mode": chance.choice(["bsp", "ssp", "ssp", "asp"])}
    compression: dict[str, Any] = {
        "push": chance.choice(PUSH_CODECS),
        "pull": chance.choice(PULL_CODECS),
        "density": 0.1,
    }
    optimizer: dict[str, Any] = {"lr": 0.05, "momentum": 0.9}
    worker: dict[str, Any] = {}
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
        optimizer["delay_compensation"] = 0.04
    return load_config(
        {
            "model": {"factory": "mlp"},
            "data": {"dataset": "npz", "path": "problem.npz", "batch_size": 8},
            "schedule": {"length": 3},
            "optimizer": optimizer,
            "sync": sync,
            "compression": compression,
            "worker": worker,
            "checkpoint": {"every_seconds": chance.choice([3, 8, 20])},
            "cluster": {
                "servers": chance.choice([1, 2, 2, 3]),
                "range_batches": chance.choice([1, 2, 4]),
                "lease_seconds": chance.choice([5, 10]),
                "devices": [{"profile": "raspberry-pi-4b", "count": chance.choice([1, 2, 3, 4])}],
            },
        }
    )
