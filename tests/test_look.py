"""`psedge status`: what it shows, and what it says when there is nothing to show."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import msgspec
import pytest

from psedge.cli import exit_code
from psedge.protocol.address import Address
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.calls import answer
from psedge.protocol.door import Door
from psedge.protocol.errors import AddressError
from psedge.protocol.messages import HELLO, STATUS, HelloReply
from psedge.protocol.ports import Incoming, Reply
from psedge.protocol.status import Status, WorkerStatus
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION
from psedge.terminal import look
from psedge.terminal.look import fetch_status

GOOD = HelloReply(psedge=__version__, wire=WIRE_VERSION, supervisor=True, run="small")
STATUS_NOW = Status(run="small", phase="training", workers=(WorkerStatus("pi", "alive"),))


class ImpatientClock:
    """Two seconds pass with every sleep."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def timestamp(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += 2


def look_at(
    answers: Mapping[str, msgspec.Struct], *, own: str | None = None, given: str = ""
) -> Status:
    """Fetch the status of a server that gives these answers and has the token `own`."""

    async def handle(incoming: Incoming) -> Reply:
        await incoming.read_into(memoryview(bytearray(incoming.length)))
        return answer(answers[incoming.path])

    async def whole() -> Status:
        transport = AiohttpTransport()
        door = Door(dict.fromkeys(answers, handle), token=own)
        listener = await transport.listen("127.0.0.1", 0, door, body_limit_bytes=2**16)
        try:
            address = Address(f"http://127.0.0.1:{listener.port}", given)
            return await fetch_status(transport, ImpatientClock(), address)
        finally:
            await listener.close()
            await transport.close()

    return asyncio.run(whole())


def test_the_status_of_a_run() -> None:
    assert look_at({HELLO: GOOD, STATUS: STATUS_NOW}, own="abc", given="abc") == STATUS_NOW


@pytest.mark.parametrize(
    ("hello", "said"),
    [
        (msgspec.structs.replace(GOOD, supervisor=False), "without a supervisor"),
        (msgspec.structs.replace(GOOD, wire=WIRE_VERSION + 1, psedge="9.9"), "runs psedge 9.9"),
        (STATUS_NOW, "not as psedge does"),
    ],
)
def test_what_is_no_supervisor_of_this_version(hello: msgspec.Struct, said: str) -> None:
    with pytest.raises(AddressError, match=said):
        look_at({HELLO: hello, STATUS: STATUS_NOW})


def test_a_closed_door() -> None:
    with pytest.raises(AddressError, match="token"):
        look_at({HELLO: GOOD, STATUS: STATUS_NOW}, own="abc", given="abd")


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    async def whole() -> None:
        transport = AiohttpTransport()
        try:
            # Nobody can listen on port 1 of the loopback but root's own services.
            await fetch_status(transport, ImpatientClock(), Address("http://127.0.0.1:1"))
        finally:
            await transport.close()

    with pytest.raises(AddressError, match="does not answer"):
        asyncio.run(whole())
    assert capsys.readouterr().err.count("trying again") == 1


@pytest.mark.parametrize(("phase", "code"), [("training", 0), ("failed", 1)])
def test_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], phase: str, code: int
) -> None:
    async def fetch(address: Address) -> Status:
        assert address == Address("http://pc.local:7700", "abc")
        return msgspec.structs.replace(STATUS_NOW, phase=phase)

    monkeypatch.setattr(look, "_fetch", fetch)
    assert exit_code(["status", "--join", "http://abc@pc.local"]) == code
    assert "● pi" in capsys.readouterr().out
    assert exit_code(["status", "--join", "http://abc@pc.local", "--json"]) == code
    shown = json.loads(capsys.readouterr().out)
    assert shown["workers"][0]["name"] == "pi"
    assert shown["phase"] == phase
