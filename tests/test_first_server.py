"""The process of a run's first server: what ends it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from psedge.first_server import serve_run
from psedge.protocol.address import Address
from psedge.protocol.errors import ConfigError, RefusedError

OWN = Address("http://127.0.0.1:7700")


@pytest.mark.parametrize(
    "failure",
    [
        ConfigError("its folder is another run's"),
        RefusedError("conflict", "another server keeps its logs there"),
        ValueError("a bug"),
    ],
)
def test_a_run_whose_own_server_cannot_take_part_does_not_wait_for_it(failure: Exception) -> None:
    async def for_ever() -> None:
        await asyncio.Event().wait()

    async def fails(*_: Any, **__: Any) -> None:
        raise failure

    supervisor: Any = SimpleNamespace(run=for_ever, everyone_knows=for_ever)
    server: Any = SimpleNamespace(serve_for=fails)
    with pytest.raises(type(failure), match=str(failure)):
        asyncio.run(asyncio.wait_for(serve_run(supervisor, server, OWN), 5))
