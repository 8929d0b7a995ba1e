"""A session of `psedge chaos` on a made-up cluster: when it begins, and how it ends."""

from __future__ import annotations

import asyncio
import io
import socket

import pytest
from rich.console import Console
from test_chaos_command import status

from psedge.chaos import processes
from psedge.chaos import run as run_module
from psedge.chaos.judge import Stall
from psedge.chaos.run import Chaos, ChaosOrder
from psedge.chaos.strikes import FAULTS, ROLES
from psedge.protocol.address import Address
from psedge.protocol.ports import Transport
from psedge.protocol.status import ServerStatus, Status
from psedge.protocol.system_clock import SystemClock


class Scene:
    """A Chaos whose cluster is a list of answers, each half a second after the one before it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Status) -> None:
        self.clock = VirtualClock()
        self.console = Console(width=100, file=io.StringIO())
        self.answers = list(answers)
        order = ChaosOrder("", 0, 5.0, ROLES, FAULTS, 5.0)
        transport: Transport = None  # type: ignore[assignment]
        address = Address("http://127.0.0.1:7700")
        self.chaos = Chaos(order, address, answers[0], self.clock, transport, self.console)
        monkeypatch.setattr(run_module, "ask", self.ask)
        monkeypatch.setattr(socket, "gethostname", lambda: "pc")
        monkeypatch.setattr(processes, "look_up", lambda pid: None)

    async def ask(self, *rest: object, **keywords: object) -> Status:
        if len(self.answers) > 1:
            return self.answers.pop(0)
        self.chaos.stop()
        return self.answers[0]

    def run(self) -> str:
        self.code = asyncio.run(self.chaos.run())
        assert isinstance(self.console.file, io.StringIO)
        return self.console.file.getvalue()


class VirtualClock(SystemClock):
    """Time passes where somebody sleeps, and nowhere else."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)


def test_roles_are_those_of_the_cluster_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = status(phase="waiting", shards=(), workers=(), waiting_for="2 more workers")
    scene = Scene(monkeypatch, *[waiting] * 400, *[status()] * 20)
    text = scene.run()
    assert "waiting for training to begin" in text
    assert "roles: primary, backup, supervisor, worker" in text
    assert scene.code == 0


def test_stopped_before_training_nothing_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = status(phase="waiting", shards=(), workers=())
    scene = Scene(monkeypatch, *[waiting] * 20)
    lines = scene.run().splitlines()
    assert lines[1].split()[1:] == ["end", "stopped"]
    assert lines[-1] == "nobody was struck"
    assert scene.code == 0


def test_a_supervisor_that_has_heard_of_nobody_says_nothing_of_a_stall(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    back = status(pushes_applied=10, servers=(ServerStatus(0, "http://a", "alive"),))
    scene = Scene(monkeypatch, status(), *[back] * 20, status(pushes_applied=90), status())

    async def story() -> Stall:
        scene.chaos._stall = stall = Stall(10, 0.0)
        for _ in range(22):
            await scene.chaos._look()
            await scene.clock.sleep(0.5)
        return stall

    assert asyncio.run(story()).seconds <= 0.5
