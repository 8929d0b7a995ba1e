"""`psedge status`: one look at a run from outside."""

from __future__ import annotations

import asyncio
import sys

import msgspec
from rich.console import Console

from psedge.own_token import with_saved_token
from psedge.protocol.address import Address, parse_join
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.calls import ask
from psedge.protocol.messages import STATUS, Acknowledged
from psedge.protocol.ports import Clock, Transport
from psedge.protocol.status import Status
from psedge.protocol.system_clock import SystemClock
from psedge.terminal.view import render
from psedge.worker.control import SupervisorClient

#: How long a server that does not answer is asked again.
PATIENCE_SECONDS = 5.0
#: The latest decisions that are shown with their reasons; --json has more.
EVENTS_SHOWN = 8


def show_status(join: str, as_json: bool) -> int:
    """Print the status of the run behind a join line; 1 if the run has failed.

    Raises AddressError when no psedge server answers there.
    """
    address = with_saved_token(parse_join(join))
    status = asyncio.run(_fetch(address))
    if as_json:
        text = msgspec.json.format(msgspec.json.encode(status), indent=2)
        sys.stdout.write(text.decode() + "\n")
    else:
        Console().print(render(status, events=EVENTS_SHOWN))
    return 1 if status.phase == "failed" else 0


async def _fetch(address: Address) -> Status:
    transport = AiohttpTransport()
    try:
        return await fetch_status(transport, SystemClock(), address)
    finally:
        await transport.close()


async def fetch_status(transport: Transport, clock: Clock, address: Address) -> Status:
    """The status of the run at `address`, asked for again while nobody answers.

    Raises AddressError when nobody answers in time, or when it is no supervisor of this version.
    """
    supervisor = SupervisorClient(transport, clock, address, notify=_aside)
    await supervisor.reach(patience_seconds=PATIENCE_SECONDS)
    return await ask(transport, address, STATUS, Acknowledged(), Status)


def _aside(text: str) -> None:
    """For people only: the status itself may be read by a program."""
    sys.stderr.write(text + "\n")
