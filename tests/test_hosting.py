"""Where a server listens that was told no port."""

from __future__ import annotations

import asyncio

import pytest

from psedge.hosting import LOOPBACK, HostedServer
from psedge.protocol.address import DEFAULT_PORT, Address
from psedge.protocol.errors import AddressError
from psedge.serve_joined import is_here, serve_joined


class Listener:
    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port

    async def close(self) -> None:
        pass


class Transport:
    """Binds any port but those that are taken."""

    def __init__(self, *taken: int) -> None:
        self.taken = taken

    async def listen(self, host, port, handler, *, body_limit_bytes):
        if port in self.taken:
            raise AddressError(f"port {port} is taken")
        return Listener(host, port)


def opened(*taken: int, leave: int | None = None) -> int:
    async def scenario() -> int:
        server = await HostedServer.open(
            LOOPBACK, None, None, transport=Transport(*taken), clock=None, notify=print, leave=leave
        )
        return server.listener.port

    return asyncio.run(scenario())


def test_the_first_free_port_from_the_default_on():
    assert opened() == DEFAULT_PORT
    assert opened(DEFAULT_PORT) == DEFAULT_PORT + 1


@pytest.mark.parametrize("leave", [DEFAULT_PORT, DEFAULT_PORT + 1])
def test_the_port_of_the_supervisor_is_left_to_it_though_nobody_is_there(leave):
    assert opened(leave=leave) == DEFAULT_PORT + (leave == DEFAULT_PORT)
    assert opened(DEFAULT_PORT, leave=leave) == DEFAULT_PORT + (1 if leave == DEFAULT_PORT else 2)


def test_the_last_port_that_is_tried_may_be_the_one_to_leave():
    last = DEFAULT_PORT + 15
    with pytest.raises(AddressError, match=f"port {last - 1} is taken"):
        opened(*range(DEFAULT_PORT, last), leave=last)


def test_which_hosts_are_this_machine():
    assert is_here("127.0.0.1")
    assert is_here("localhost")
    assert not is_here("192.0.2.1"), "an address for documentation is nobody's"
    assert not is_here("no-such-host.invalid")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_is_not_told_to_join_itself(host):
    supervisor = Address(f"http://{host}:7765")
    joined = serve_joined(supervisor, LOOPBACK, 7765, None, with_parent=False)
    with pytest.raises(AddressError, match=r"--port 7765 is that of the first server"):
        asyncio.run(asyncio.wait_for(joined, 10))
