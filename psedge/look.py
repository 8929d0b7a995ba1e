"""`psedge status`: one look at a run from outside."""

from __future__ import annotations

import asyncio
import sys

import msgspec
from rich.console import Console

from psedge.protocol.address import Address, parse_join
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.calls import ask
from psedge.protocol.errors import AddressError, FrameError, RefusedError, UnreachableError
from psedge.protocol.messages import HELLO, STATUS, Acknowledged, Hello, HelloReply, Status
from psedge.protocol.ports import Clock, Transport
from psedge.protocol.system_clock import SystemClock
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION
from psedge.view import render

#: How long a server that does not answer is asked again, and how often.
PATIENCE_SECONDS = 5.0
_RETRY_SECONDS = 0.5


def show_status(join: str, as_json: bool) -> int:
    """Print the status of the run behind a join line; 1 if the run has failed.

    Raises AddressError when no psedge server answers there.
    """
    address = parse_join(join)
    status = asyncio.run(_fetch(address))
    if as_json:
        text = msgspec.json.format(msgspec.json.encode(status), indent=2)
        sys.stdout.write(text.decode() + "\n")
    else:
        Console().print(render(status))
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
    deadline = clock.now() + PATIENCE_SECONDS
    said = False
    while True:
        try:
            return await _status(transport, address)
        except UnreachableError as error:
            if clock.now() >= deadline:
                raise AddressError(
                    f"nobody answers at {address.url}: is the server running, and is this the "
                    "line that it printed?"
                ) from error
            if not said:
                said = True
                sys.stderr.write(f"{address.url} does not answer; trying again\n")
        except FrameError as error:
            raise AddressError(f"what answers at {address.url} is no psedge server") from error
        await clock.sleep(_RETRY_SECONDS)


async def _status(transport: Transport, address: Address) -> Status:
    try:
        hello = Hello(psedge=__version__, wire=WIRE_VERSION)
        reply = await ask(transport, address, HELLO, hello, HelloReply)
        if reply.wire != WIRE_VERSION:
            raise AddressError(
                f"{address.url} runs psedge {reply.psedge} (wire version {reply.wire}), this is "
                f"psedge {__version__} (wire version {WIRE_VERSION}): install the same version"
            )
        if not reply.supervisor:
            raise AddressError(
                f"{address.url} is a further server: ask the first one, which holds the supervisor"
            )
        return await ask(transport, address, STATUS, Acknowledged(), Status)
    except RefusedError as error:
        raise AddressError(f"{address.url} refused: {error}") from error
