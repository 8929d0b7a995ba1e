"""A supervisor on a network and a clock made of data, asked as workers and servers ask it."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tiny_cluster import HOME, Network, TestClock

from psedge.protocol import messages
from psedge.protocol.calls import ask
from psedge.protocol.disk import Disk
from psedge.protocol.errors import RefusedError
from psedge.protocol.layout import Layout, TensorSpec
from psedge.protocol.ports import Buffer
from psedge.protocol.shards import GroupSettings, OptimizerSettings
from psedge.protocol.status import Status
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION
from psedge.server.service import ShardService
from psedge.supervisor.book import Book
from psedge.supervisor.checkpoint import Checkpoint
from psedge.supervisor.model_state import ModelState
from psedge.supervisor.service import Supervisor
from psedge.supervisor.setup import Evaluator, RunSetup
from psedge.toml_config import load_config

LAYOUT = Layout((TensorSpec("weight", (5, 2), "float32", "parameter", 0),))
SETTINGS = OptimizerSettings("sgd", (GroupSettings(lr=0.1),))


def model_state() -> ModelState:
    return ModelState(
        LAYOUT,
        SETTINGS,
        (0,),
        np.zeros(10, np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.uint8),
        np.zeros(0, np.uint8),
    )


class SmallDisk(Disk):
    """While full it has room for figures but not for a model."""

    full = False

    async def write_atomic(self, path: str, parts: Sequence[Buffer]) -> None:
        if self.full and path.endswith(".safetensors"):
            raise OSError(errno.ENOSPC, "No space left on device")
        await super().write_atomic(path, parts)


class Rig:
    """A supervisor with its servers, asked as workers and servers ask it."""

    def __init__(
        self,
        folder: Path,
        *,
        train_samples: int | None = 64,
        evaluator: Evaluator | None = None,
        sections: dict[str, Any] | None = None,
        **cluster: Any,
    ) -> None:
        """sections: of the config, besides the ones that every run here has. Without a word about
        replication each shard has one copy."""
        self.clock, self.network = TestClock(), Network()
        self.notes: list[str] = []
        self.folder = folder
        settings = {"servers": 2, "workers": 2, "wait_seconds": 5.0, "lease_seconds": 4.0}
        experiment = load_config(
            {
                "model": {"factory": "mlp"},
                "data": {"dataset": "npz", "path": "x.npz", "batch_size": 4},
                "schedule": {"length": 1},
                "cluster": {**settings, "range_batches": 4, **cluster},
                "replication": {"replicas": 1},
                **(sections or {}),
            }
        )
        self.setup = RunSetup(
            "run", str(folder), experiment, model_state(), train_samples, evaluator
        )
        self.disk = SmallDisk(folder)
        self.services = [ShardService(self.clock) for _ in range(settings["servers"])]
        self.supervise()

    def supervise(
        self,
        book: Book | None = None,
        *,
        checkpoint: Checkpoint | None = None,
        beside: int | None = 0,
        from_checkpoint: bool = False,
    ) -> None:
        """Start a supervisor, in place of the one that is there."""
        self.supervisor = Supervisor(
            dataclasses.replace(self.setup, checkpoint=checkpoint, from_checkpoint=from_checkpoint),
            self.disk,
            clock=self.clock,
            transport=self.network,
            token="",
            notify=self.notes.append,
            beside=beside,
            book=book,
        )
        self.network.routes[HOME.url] = self.supervisor.routes()

    async def ask(self, path: str, message: msgspec.Struct) -> Any:
        reply_type = messages.PATHS[path][1]
        assert reply_type is not None
        return await ask(self.network, HOME, path, message, reply_type)

    async def register(self, *servers: int, lossless: tuple[str, ...] = ("none",)) -> None:
        for server in servers:
            host = f"10.0.0.{server}"
            self.network.routes[f"http://{host}:7700"] = self.services[server].routes()
            reply = await self.ask(
                messages.REGISTER,
                messages.Register(__version__, WIRE_VERSION, host, 7700, server, lossless),
            )
            self.services[server].server = reply.server
            self.services[server].incarnation = server

    async def beat(self, server: int) -> None:
        await self.ask(messages.SERVER_HEARTBEAT, self.services[server].report())

    async def join(self, name: str, incarnation: int = 1, **fields: Any) -> Any:
        fields = {"layout_digest": LAYOUT.digest(), "dataset_samples": 64, **fields}
        join = messages.Join(
            psedge=__version__,
            wire=WIRE_VERSION,
            name=name,
            incarnation=incarnation,
            device="test",
            loader=True,
            **fields,
        )
        return await self.ask(messages.JOIN, join)

    async def claim(
        self, worker: int, incarnation: int = 1, *, idle: bool = False, number: int = 0
    ) -> Any:
        return await self.ask(messages.CLAIM, messages.Claim(worker, incarnation, idle, number))

    async def status(self) -> Status:
        return await self.ask(messages.STATUS, messages.Acknowledged())  # type: ignore[no-any-return]

    async def finished(self) -> None:
        """One worker does all the work; the run has not heard of it yet."""
        await self.started()
        state = self.supervisor.state
        assert state.plan is not None
        for worker in (0, 1):
            while (await self.claim(worker, 1 + worker)).state == "range":
                pass
            state.plan.consumed(worker, 64, 1 + worker)
            await self.ask(messages.LEAVE, messages.Leave(worker, 1 + worker))
        assert state.plan.finished

    async def started(self, **fields: Any) -> None:
        await self.register(0, 1)
        with pytest.raises(RefusedError):
            await self.join("a", 1, **fields)
        await self.join("b", 2, **fields)
        await self.join("a", 1, **fields)


def run(work: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))  # type: ignore[arg-type]
