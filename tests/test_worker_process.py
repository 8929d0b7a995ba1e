"""`psedge worker` before it reaches the network: what it is called, and what that decides."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_cluster import TestClock, run, until

from psedge import work
from psedge.protocol.address import Address
from psedge.worker.imports import AllowList
from psedge.worker.metrics import Metrics


@pytest.mark.parametrize(("given", "called"), [("", "pi-2"), ("hall-1", "hall-1")])
def test_a_worker_without_a_name_has_its_machines_name_for_everything(
    given: str, called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def parts_of_config(allow: AllowList, data: Path, name: str) -> work.MakeParts:
        names.append(name)
        return pytest.fail

    class Worker:
        def __init__(self, address: object, device: object, name: str, *_: object, **__: object):
            names.append(name)

    def run_async(coroutine: Coroutine[Any, Any, int]) -> int:
        coroutine.close()
        return 0

    monkeypatch.setattr(socket, "gethostname", lambda: "pi-2")
    monkeypatch.setattr(work, "parts_of_config", parts_of_config)
    monkeypatch.setattr(work, "Worker", Worker)
    monkeypatch.setattr(work, "run_async", run_async)
    options: dict[str, Any] = {"device": "cpu", "data": Path(), "allow": (), "pace": 1.0}
    assert work.run_worker(join="http://pc", name=given, with_parent=False, **options) == 0
    assert names == [called, called], "the line whose data it takes goes by the name it is shown by"


def test_progress_is_told_only_while_there_is_some() -> None:
    lines: list[str] = []
    worker = work.Worker(
        Address("http://pc:7700"),
        torch.device("cpu"),
        "pi",
        pytest.fail,
        pace=1.0,
        notify=lines.append,
    )
    clock, metrics = TestClock(), Metrics(0.0)
    client = SimpleNamespace(bytes_pushed=0, bytes_pulled=0)
    session: Any = SimpleNamespace(metrics=metrics, client=client)

    async def story() -> None:
        telling = asyncio.ensure_future(worker._tell(session, clock))
        await until(lambda: clock.now() > 100)
        metrics.add_step(clock.now(), 16)
        await until(lambda: len(lines) > 1)
        telling.cancel()

    run(story())
    assert [line.partition(" |")[0] for line in lines] == ["step 0", "step 1"]
