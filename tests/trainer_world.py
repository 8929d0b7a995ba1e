"""A cluster, a data set and trainers on one virtual clock, for tests of training."""

from __future__ import annotations

import copy
import zlib
from collections import Counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tiny_cluster import HOME, TestClock, TinyCluster, at_once
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from psedge.protocol.shards import GroupSettings, OptimizerSettings, SyncSettings
from psedge.supervisor.data_plan import DataPlan
from psedge.worker.binding import Binding, layout_of
from psedge.worker.config import DataConfig, ModelConfig, WorkerConfig
from psedge.worker.control import SupervisorClient
from psedge.worker.datasets.order import permuted
from psedge.worker.gradient import GradientStep
from psedge.worker.session import Identity, Session
from psedge.worker.trainer import Plan, Trainer

CPU = torch.device("cpu")
LR = 0.1
ASP = SyncSettings("asp")
PLAIN = WorkerConfig()
MLP = ModelConfig("mlp")
SGD = OptimizerSettings(rule="sgd", groups=(GroupSettings(lr=LR, momentum=0.9),))


class Numbers:
    """`samples` points in three classes; remembers who was asked for which of them."""

    name = "numbers"

    def __init__(self, samples: int, classes: int = 3) -> None:
        rng = np.random.default_rng(0)
        self.classes: int | None = classes
        self.inputs = torch.from_numpy(rng.standard_normal((samples, 6)).astype(np.float32))
        self.targets = torch.from_numpy(rng.integers(0, classes, samples))
        self.visits: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        if generator is not None:
            self.visits.update(indices.tolist())
        return self.inputs[indices], self.targets[indices]


class World:
    """One cluster, one data set, any number of trainers on one virtual clock."""

    def __init__(
        self,
        source: Numbers,
        epochs: int = 1,
        sync: SyncSettings = ASP,
        optimizer: OptimizerSettings = SGD,
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.source = source
        self.clock = TestClock()
        self.plan = DataPlan.shared(len(source), epochs * len(source))
        binding = Binding(self.model, layout_of(self.model), CPU)
        binding.read_model()
        self.start = binding.parameters.copy()
        self.cluster = TinyCluster(
            binding.layout,
            binding.vectors,
            self.clock,
            optimizer=optimizer,
            sync=sync,
            plan=self.plan,
            **options,
        )
        self.notes: list[str] = []

    async def trainer(
        self,
        name: str = "pi",
        *,
        batch: int = 16,
        worker: WorkerConfig = PLAIN,
        model: ModelConfig = MLP,
        loss: Any = cross_entropy,
        pace: float = 1.0,
    ) -> tuple[Session, Trainer]:
        if not self.cluster.shards():
            await self.cluster.start()
        module = copy.deepcopy(self.model)
        binding = Binding(module, layout_of(module), CPU)
        network = self.cluster.network
        supervisor = SupervisorClient(network, self.clock, HOME, self.notes.append)
        identity = Identity(
            name, "test", zlib.crc32(name.encode()), True, dataset_samples=len(self.source)
        )
        session = Session(network, self.clock, supervisor, binding, identity, self.notes.append)
        await session.start(self.cluster.experiment())
        plan = Plan(model, DataConfig("numbers", batch_size=batch), worker, seed=7)
        trainer = Trainer(
            session,
            plan,
            module,
            self.source,
            GradientStep(module, loss, CPU, precision=model.precision, clip_norm=worker.clip_norm),
            self.clock,
            compute=at_once,
            load=at_once,
            pace=pace,
        )
        return session, trainer

    async def train(self, **options: Any) -> Session:
        session, trainer = await self.trainer(**options)
        await trainer.run()
        return session

    def sgd(self, batches: list[NDArray[np.int64]]) -> NDArray[np.float32]:
        """What torch makes of these batches in one process."""
        model = copy.deepcopy(self.model)
        optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
        for indices in batches:
            optimizer.zero_grad()
            inputs, targets = self.source.batch(indices, None)
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        binding = Binding(model, layout_of(model), CPU)
        binding.read_model()
        return binding.parameters

    def epoch_batches(self, size: int, epochs: int = 1) -> list[NDArray[np.int64]]:
        """An epoch's order, cut into batches that end with each claimed range."""
        n = len(self.source)
        batches = []
        for epoch in range(epochs):
            order = permuted(np.arange(n, dtype=np.int64), n, 7, epoch)
            for start in range(0, n, self.cluster.range_samples):
                piece = order[start : start + self.cluster.range_samples]
                batches += [piece[i : i + size] for i in range(0, len(piece), size)]
        return batches
