"""A launch without processes: its children, its supervisor, its clock and its screen as data."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from psedge.config import ClusterConfig, Experiment
from psedge.launch import Launch
from psedge.orders import RunOrder
from psedge.protocol.messages import STATUS, STOP
from psedge.protocol.status import Status

EXPERIMENT = Experiment(name="small", cluster=ClusterConfig(servers=2, workers=2, pace=(1.0, 3.0)))
EXPERIMENT_APART = msgspec.structs.replace(
    EXPERIMENT,
    cluster=msgspec.structs.replace(EXPERIMENT.cluster, supervisor_apart=True),
)
READY = "psedge server ready at http://127.0.0.1:45678\npsedge worker --join ...\n"


class FakeChild:
    """A process that ends when it is told to."""

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, environment: dict[str, str]
    ) -> None:
        self.name, self.arguments, self.log, self.environment = name, arguments, log, environment
        self.exit_code: int | None = None
        self.text = READY if name in ("server-0", "supervisor") else ""
        self.words = ""
        self.killed = False

    @property
    def running(self) -> bool:
        return self.exit_code is None

    def output(self) -> str:
        return self.text

    def last_words(self) -> str:
        return self.words or f"last words of {self.name}"

    def terminate(self) -> None:
        if self.exit_code is None:
            self.exit_code = 0

    def kill(self) -> None:
        self.killed, self.exit_code = True, -9

    def close(self, timeout_seconds: float) -> None:
        assert not self.running or timeout_seconds == 0


class World:
    """A clock, a supervisor and a screen; `script` is called at every look with its number."""

    def __init__(
        self,
        script: Callable[[World, int], Status],
        *,
        out: Path = Path("out"),
        apart: bool = False,
    ) -> None:
        self.script = script
        self.children: dict[str, FakeChild] = {}
        self.shown: list[Status] = []
        self.stops: list[str] = []
        self.failures: list[str] = []
        self.looks = 0
        self.seconds = 0.0
        self.launch = Launch(
            RunOrder(Path("c.toml"), ("a.b=1",), data=Path("d"), allow=("mine",)),
            EXPERIMENT_APART if apart else EXPERIMENT,
            out,
            clock=self,
            transport=self,  # type: ignore[arg-type]
            screen=self,
            spawn=self.spawn,  # type: ignore[arg-type]
        )

    def spawn(self, name: str, *rest: Any) -> FakeChild:
        self.children[name] = FakeChild(name, *rest)
        return self.children[name]

    def now(self) -> float:
        return self.seconds

    def timestamp(self) -> float:
        return 1_000_000 + self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        assert self.seconds < 1000, "the launch never ends"
        await asyncio.sleep(0)

    async def call(
        self, url: str, path: str, parts: Sequence[bytes], **_: Any
    ) -> Awaitable[memoryview] | memoryview:
        assert url == "http://127.0.0.1:45678"
        if path == STOP:
            stop = json.loads(parts[0])
            (self.failures if stop["failed"] else self.stops).append(stop["reason"])
            return memoryview(b"{}")
        assert path == STATUS
        self.looks += 1
        return memoryview(msgspec.json.encode(self.script(self, self.looks)))

    def show(self, status: Status, now: float) -> None:
        self.shown.append(status)

    def close(self) -> None:
        pass

    def run(self) -> Status:
        async def whole() -> Status:
            try:
                return await self.launch.run()
            finally:
                await self.launch.close()

        return asyncio.run(whole())


def training(samples: int = 1, **fields: Any) -> Status:
    return Status(run="small", phase="training", samples=samples, **fields)
