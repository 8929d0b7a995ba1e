"""`psedge.connect`: a user's own loop against a real first server, in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import psedge
from psedge.first_server import make_supervisor
from psedge.hosting import LOOPBACK, HostedServer, cancelled
from psedge.protocol.address import Address
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.disk import Disk
from psedge.protocol.errors import AddressError, ModelError, TrainingError
from psedge.protocol.system_clock import SystemClock
from psedge.supervisor.service import Supervisor
from psedge.toml_config import load_config
from psedge.worker.client import StopTraining


class ServerThread:
    """`psedge server` without a model in its config, in a thread of this process."""

    def __init__(self, folder: Path, sections: dict[str, Any]) -> None:
        self.url = ""
        self.notes: list[str] = []
        self.supervisor: Supervisor | None = None
        self._config = load_config(
            {"cluster": {"heartbeat_seconds": 0.05, "wait_seconds": 0.0}, **sections}
        )
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        assert self._ready.wait(30)

    def stop(self) -> None:
        supervisor = self.supervisor
        assert supervisor is not None
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(lambda: supervisor.request_stop("the test is over"))
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _main(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        clock, transport = SystemClock(), AiohttpTransport()
        options: dict[str, Any] = {
            "transport": transport,
            "clock": clock,
            "notify": self.notes.append,
        }
        server = await HostedServer.open(LOOPBACK, 0, None, **options)
        self.supervisor = await make_supervisor(
            self._config,
            folder=self._folder,
            storage=Disk(self._folder),
            resume=False,
            data=self._folder,
            token="",
            beside=server.incarnation,
            **options,
        )
        server.start(self.supervisor.routes())
        self.url = server.url
        serving = asyncio.ensure_future(server.serve_for(Address(server.url)))
        self._ready.set()
        await self.supervisor.run()
        await cancelled(serving)
        await server.close()
        await transport.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., ServerThread]]:
    started: list[ServerThread] = []

    def start(**sections: Any) -> ServerThread:
        started.append(ServerThread(tmp_path / f"run-{len(started)}", sections))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def silent(text: str) -> None:
    del text


def batches(count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    for _ in range(count):
        x = torch.randn(8, 4, generator=generator)
        yield x, x @ torch.arange(4.0) + 1


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))


def gradient(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    nn.functional.mse_loss(model(x), y).backward()


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)


def alone(steps: int) -> nn.Module:
    model = network()
    optimizer = adamw(model)
    for x, y in batches(steps):
        optimizer.zero_grad()
        gradient(model, x, y)
        optimizer.step()
    return model


def assert_close(ours: nn.Module, theirs: nn.Module) -> None:
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_three_lines_do_what_the_optimizer_did(serve: Callable[..., ServerThread]) -> None:
    model = network()
    ps = psedge.connect(serve().url, model, optimizer=adamw(model), notify=silent)
    for x, y in batches(20):
        gradient(model, x, y)
        result = ps.step()
        assert result is not None
        assert result.clock > 0
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    ps.close()
    ps.close()
    assert_close(model, alone(20))


def test_the_same_from_asyncio(serve: Callable[..., ServerThread]) -> None:
    model = network()
    url = serve().url

    async def loop() -> None:
        async with await psedge.aconnect(url, model, optimizer=adamw(model), notify=silent) as ps:
            for x, y in batches(20):
                gradient(model, x, y)
                await ps.astep()

    asyncio.run(loop())
    assert_close(model, alone(20))


def test_local_steps_in_a_loop_of_ones_own(serve: Callable[..., ServerThread]) -> None:
    # One worker's change, averaged with nobody's, is its own steps.
    model = network()
    server = serve(sync={"local_steps": 4})
    with psedge.connect(server.url, model, optimizer=adamw(model), notify=silent) as ps:
        answers = []
        for x, y in batches(22):
            gradient(model, x, y)
            answers.append(ps.step() is not None)
    assert answers == [index % 4 == 3 for index in range(22)]
    assert_close(model, alone(22))


def test_overlap_computes_on_parameters_one_exchange_older(
    serve: Callable[..., ServerThread],
) -> None:
    model, reference = network(), network()
    server = serve(worker={"overlap": True})
    options: dict[str, Any] = {"lr": 0.05}
    with psedge.connect(
        server.url, model, optimizer=torch.optim.SGD(model.parameters(), **options), notify=silent
    ) as ps:
        for x, y in batches(12):
            gradient(model, x, y)
            ps.step()
    # The gradient of step k is taken at the parameters that step k - 2 left behind.
    optimizer = torch.optim.SGD(reference.parameters(), **options)
    ahead = [p.detach().clone() for p in reference.parameters()]
    for x, y in batches(12):
        behind = network()
        behind.load_state_dict(dict(zip(behind.state_dict(), ahead, strict=True)))
        ahead = [p.detach().clone() for p in reference.parameters()]
        gradient(behind, x, y)
        for mine, other in zip(reference.parameters(), behind.parameters(), strict=True):
            mine.grad = other.grad
        optimizer.step()
    assert_close(model, reference)


def test_a_second_program_gets_the_firsts_parameters(serve: Callable[..., ServerThread]) -> None:
    server = serve()
    first, second = network(), nn.Sequential(*network().children())
    for parameter in second.parameters():
        nn.init.zeros_(parameter)
    one = psedge.connect(server.url, first, optimizer=adamw(first), name="one", notify=silent)
    two = psedge.connect(server.url, second, name="one", notify=silent)
    assert (one.name, two.name) == ("one", "one-2")
    for mine, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, other)
    one.close()
    two.close()


def test_another_model_is_refused_by_its_first_different_tensor(
    serve: Callable[..., ServerThread],
) -> None:
    server = serve()
    model = network()
    with psedge.connect(server.url, model, optimizer=adamw(model), notify=silent):
        other = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 1))
        with pytest.raises(ModelError, match=r"0\.weight float32\[9, 4\].*float32\[8, 4\]"):
            psedge.connect(server.url, other, notify=silent)


def test_nobody_at_the_address() -> None:
    notes: list[str] = []
    with pytest.raises(AddressError, match="does not answer"):
        psedge.connect("http://127.0.0.1:9", network(), timeout_seconds=0.5, notify=notes.append)


def test_a_stopped_run_ends_the_loop(serve: Callable[..., ServerThread]) -> None:
    server = serve()
    model = network()
    ps = psedge.connect(server.url, model, optimizer=adamw(model), notify=silent)
    stopping = threading.Thread(target=server.stop)
    stopping.start()

    def forever() -> None:
        for x, y in batches(100_000):
            gradient(model, x, y)
            ps.step()

    with pytest.raises(StopTraining):
        forever()
    assert ps.stopped
    ps.close()
    stopping.join()


def test_a_loss_that_is_nan_from_the_first_step_ends_the_loop(
    serve: Callable[..., ServerThread],
) -> None:
    server = serve()
    model = network()
    taken: list[int] = []

    def forever() -> None:
        for x, _ in batches(100):
            (model(x) * float("nan")).sum().backward()
            ps.step()
            taken.append(1)

    with psedge.connect(server.url, model, optimizer=adamw(model), notify=silent) as ps:
        with pytest.raises(TrainingError, match=r"5 gradients in a row.*Likely causes"):
            forever()
        assert len(taken) == 4
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match=r"must be a torch\.nn\.Module, not list"):
        psedge.connect("http://127.0.0.1:9", [1, 2])  # type: ignore[arg-type]
