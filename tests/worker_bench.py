"""A cluster around one small model, for tests of the worker's side of the servers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tiny_cluster import HOME, TestClock, TinyCluster
from torch import nn

from psedge.compression.codec_speed import Measure
from psedge.protocol.shards import GroupSettings, OptimizerSettings, SyncSettings
from psedge.worker.binding import Binding, layout_of
from psedge.worker.control import SupervisorClient
from psedge.worker.session import Identity, Session

SGD = OptimizerSettings(rule="sgd", groups=(GroupSettings(lr=0.5),))
ASP = SyncSettings("asp")


class Bench:
    """A cluster around one small model, and workers of it.

    width: of the model's input; its matrix has three rows. options: of `TinyCluster`.
    """

    def __init__(self, width: int = 5, **options: Any) -> None:
        torch.manual_seed(0)
        self.clock = TestClock()
        self.model = nn.Sequential(nn.Linear(width, 3), nn.BatchNorm1d(3))
        self.layout = layout_of(self.model)
        first = self.binding()
        first.read_model()
        self.start = first.parameters.copy()
        options = {"optimizer": SGD, "sync": ASP, **options}
        self.cluster = TinyCluster(self.layout, first.vectors, self.clock, **options)
        self.notes: list[str] = []

    def binding(self) -> Binding:
        return Binding(self.model, self.layout, torch.device("cpu"))

    async def session(
        self, name: str = "pi", incarnation: int = 100, costs: Measure | None = None
    ) -> Session:
        """A joined worker; all of them share one model, which these tests only write."""
        if not self.cluster.shards():
            await self.cluster.start()
        session = Session(
            self.cluster.network,
            self.clock,
            SupervisorClient(self.cluster.network, self.clock, HOME, self.notes.append),
            self.binding(),
            Identity(name, "test", incarnation, loader=False),
            self.notes.append,
            costs=costs,
        )
        await session.start(self.cluster.experiment())
        return session


def gradient(bench: Bench, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(len(bench.start)).astype(np.float32)
