"""What is done to a cluster of real processes: faults, whom they strike, and how they end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chaos_rig import GIGABIT, ChaosCluster, Link, Node, RealNetwork

from psedge.protocol.status import Status

Role = Literal["primary", "backup", "supervisor", "worker"]
Fault = Literal["kill", "pause", "link down", "slow link", "disk full"]

ROLES: tuple[Role, ...] = ("primary", "backup", "supervisor", "worker")
#: A killed process is away for so long; other faults last longer than the shortest lease.
AWAY_SECONDS, FAULT_SECONDS = 1.0, 8.0
SLOW = Link(0.5e6)

SAMPLES_PER_EPOCH, BATCH = 640, 16
#: The digits that come with scikit-learn, from a slow disk: a step of a worker then takes as long
#: on an idle machine as on a busy one, so that faults come in the middle.
DATA = """
import time
import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset

class Digits(Dataset):
    def __init__(self, images, labels, seconds):
        self.images, self.labels, self.seconds = images, labels, seconds
    def __len__(self):
        return len(self.labels)
    def __getitem__(self, index):
        time.sleep(self.seconds)
        return self.images[index], self.labels[index]

def digits(split):
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(found.target)
    if split == "train":
        return Digits(images[:640], labels[:640], 0.0015)
    return Digits(images[1000:1320], labels[1000:1320], 0.0)
"""
CONFIG = """
[model]
factory = "mlp"
arguments = {{ hidden = [32] }}
[data]
dataset = "chaos_data:digits"
batch_size = 16
[optimizer]
lr = 0.05
[schedule]
kind = "cosine"
length = {epochs}
[sync]
mode = "ssp"
[worker]
threads = 1
[replication]
acks = "replica"
[durability]
log = "group"
sync_seconds = 0.2
segment_mb = 1
snapshot_mb = 2
"""


@dataclass(frozen=True, slots=True)
class Case:
    """roles: all are struck at the same moment."""

    roles: tuple[Role, ...]
    fault: Fault

    @property
    def name(self) -> str:
        whom = "one of each role" if self.roles == ROLES else " and ".join(self.roles)
        return f"{self.fault} of {whom}"

    @property
    def needs_network(self) -> bool:
        return self.fault in ("link down", "slow link")


def training_in(
    folder: Path, epochs: int, stores: Callable[[str], Path], network: RealNetwork | None = None
) -> ChaosCluster:
    """Two servers that keep logs, two workers that train for some 12 ms a batch together."""
    (folder / "chaos_data.py").write_text(DATA)
    return ChaosCluster(
        folder,
        CONFIG.format(epochs=epochs),
        stores=stores,
        network=network,
        worker_arguments=["--allow", "chaos_data"],
    )


def node_of(cluster: ChaosCluster, role: Role) -> Node:
    """Who plays a role now; primary and backup are those of shard 0."""
    if role == "supervisor":
        return cluster.supervisor
    if role == "worker":
        return next(iter(cluster.workers.values()))
    status = cluster.until(is_whole_for(cluster), "everybody is there")
    shard = status.shards[0]
    number = shard.primary if role == "primary" else shard.backups[0]
    process = next(server.process for server in status.servers if server.server == number)
    return next(node for node in cluster.servers.values() if node.process.pid == process)


def is_whole(status: Status, servers: int, workers: int) -> bool:
    """Every shard has its copies and all workers take part."""
    shards = bool(status.shards) and all(
        shard.primary >= 0 and len(shard.backups) >= shard.wanted for shard in status.shards
    )
    # A supervisor that was just started knows of servers that it has not heard from.
    there = sum(s.state in ("alive", "spare") and s.process > 0 for s in status.servers)
    live = sum(w.state in ("alive", "idle") for w in status.workers)
    return shards and there >= servers and live >= workers and status.phase == "training"


def is_whole_for(cluster: ChaosCluster):  # type: ignore[no-untyped-def]
    """Also true when the run is over: then nobody has to come back."""
    servers, workers = len(cluster.servers), len(cluster.workers)
    return lambda status: is_whole(status, servers, workers) or status.phase == "finished"


def strike(cluster: ChaosCluster, case: Case) -> float:
    """Do it, mend it, and wait until all is whole; returns how long that took altogether."""
    nodes = [node_of(cluster, role) for role in case.roles]
    began = time.monotonic()
    if case.fault == "kill":
        for node in nodes:
            node.kill()
        _wait(AWAY_SECONDS)
        for node in nodes:
            node.start(*(["--resume"] if node is cluster.supervisor else []))
    else:
        with contextlib.ExitStack() as stack:
            for node in nodes:
                stack.enter_context(_struck(cluster, node, case.fault))
            _wait(FAULT_SECONDS)
    processes = {node.process.pid for node in nodes}

    def mended(status: Status) -> bool:
        shown = {each.process for each in (*status.workers, *status.servers)} | {status.process}
        back = processes <= shown or case.fault != "kill"
        return status.phase == "finished" or (back and is_whole_for(cluster)(status))

    cluster.until(mended, f"all is whole again after the {case.name}")
    return time.monotonic() - began


@contextlib.contextmanager
def _struck(cluster: ChaosCluster, node: Node, fault: Fault) -> Iterator[None]:
    if fault == "pause":
        with node.paused():
            yield
    elif fault == "disk full":
        with _filled(cluster.store(node.name)):
            yield
    else:
        network, host = cluster.network, cluster.hosts[node.name]
        assert network is not None
        if fault == "link down":
            network.set_up(host, up=False)
        else:
            network.reshape(host, SLOW)
        try:
            yield
        finally:
            network.set_up(host, up=True)
            network.reshape(host, GIGABIT)


@contextlib.contextmanager
def _filled(folder: Path) -> Iterator[None]:
    """Nothing more can be written to the file system that a folder is on: keep it small."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**16))
            file.flush()
    try:
        yield
    finally:
        ballast.unlink()


def _wait(seconds: float) -> None:
    """How long a fault lasts; nothing is waited for."""
    time.sleep(seconds)
