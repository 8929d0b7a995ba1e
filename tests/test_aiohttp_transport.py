"""The aiohttp transport: the conformance suite on both event loops, and what only HTTP can do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import pytest
import uvloop
from exchange_conformance import ExchangeConformance
from transport_conformance import LIMIT, TransportConformance, World, echo, soon

from psedge.protocol import aiohttp_server
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.calls import bounded, read_body
from psedge.protocol.checksum import checksum_of
from psedge.protocol.errors import AddressError, FrameError, UnreachableError
from psedge.protocol.ports import Reply


def run(scenario, loop_factory=uvloop.new_event_loop):
    async def whole():
        server, client = AiohttpTransport(), AiohttpTransport()
        try:
            await scenario(World(server, client, "127.0.0.1"))
        finally:
            await client.close()
            await server.close()

    loop = loop_factory()
    try:
        loop.run_until_complete(asyncio.wait_for(whole(), 60))
    finally:
        loop.close()


class TestOnUvloop(TransportConformance, ExchangeConformance):
    def run(self, scenario):
        run(scenario)


class TestOnAsyncio(TransportConformance, ExchangeConformance):
    def run(self, scenario):
        run(scenario, asyncio.new_event_loop)


async def converse(listener, request: bytes) -> bytes:
    """Send raw bytes and return everything that comes back until the server closes."""
    reader, writer = await asyncio.open_connection(listener.host, listener.port)
    writer.write(request)
    answer = await soon(reader.read())
    writer.close()
    return answer


def check_answer(answer: bytes, error: type[Exception], words: str = ".") -> None:
    """A server that answers so makes the caller raise that error."""

    async def scenario(world):
        async def strange(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(strange, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        try:
            with pytest.raises(error, match=words):
                await world.client.call(
                    f"http://{host}:{port}",
                    "/x",
                    (b"body",),
                    allocate=bounded(LIMIT),
                    timeout_seconds=10,
                )
        finally:
            server.close()

    run(scenario)


def status_and_refusal(answer: bytes):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_get_without_a_body_is_a_request():
    async def scenario(world):
        listener = await world.listen(echo)
        answer = await converse(
            listener, b"GET /v1/status?x=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Length: 0\r\n" in answer

    run(scenario)


@pytest.mark.parametrize(
    ("request_head", "status", "code"),
    [
        (b"POST /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", 400, "bad-request"),
        (
            b"POST /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
            400,
            "bad-request",
        ),
        (b"DELETE /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", 400, "bad-request"),
        (
            b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            + b"".join(b"X-%d: %s\r\n" % (index, b"y" * 1000) for index in range(9)),
            413,
            "too-large",
        ),
    ],
    ids=["no-length", "chunked", "method", "headers"],
)
def test_requests_outside_the_rules_are_refused(request_head, status, code):
    async def scenario(world):
        listener = await world.listen(echo)
        answer = await converse(listener, request_head + b"\r\n")
        got_status, refusal = status_and_refusal(answer)
        assert (got_status, refusal["code"]) == (status, code)

    run(scenario)


@pytest.mark.parametrize("read_bytes", [0, 3, 10])
@pytest.mark.parametrize(
    ("sent", "code"), [(b"0123456789", "bad-frame"), (b"01z3456789", "damaged")]
)
def test_what_makes_no_sense_is_told_apart_from_what_was_damaged(sent, code, read_bytes):
    async def handler(incoming):
        await incoming.read_into(memoryview(bytearray(read_bytes)))
        raise FrameError("no sense in it")

    async def scenario(world):
        listener = await world.listen(handler)
        answer = await converse(
            listener,
            b"POST /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n"
            b"Psedge-Checksum: %b\r\n\r\n%b" % (checksum_of((b"0123456789",)).encode(), sent),
        )
        status, refusal = status_and_refusal(answer)
        assert (status, refusal["code"]) == (400, code)

    run(scenario)


def test_a_damaged_body_is_never_read_to_its_end():
    bodies = []

    async def handler(incoming):
        bodies.append(await read_body(incoming, LIMIT))
        return Reply()

    async def scenario(world):
        listener = await world.listen(handler)
        for body in (b"0123456789", b"0123456788"):
            await converse(
                listener,
                b"POST /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n"
                b"Psedge-Checksum: %b\r\n\r\n%b" % (checksum_of((b"0123456789",)).encode(), body),
            )

    run(scenario)
    assert bodies == [b"0123456789"]


@pytest.mark.parametrize("status", [b"200 OK", b"409 Conflict"])
def test_a_damaged_answer_is_unreachable(status):
    answer = b"HTTP/1.1 %b\r\nContent-Length: 2\r\nPsedge-Checksum: 0123456789abcdef\r\n\r\n{}"
    check_answer(answer % status, UnreachableError, "damaged on its way")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00 not http at all \r\n\r\n",
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    ],
    ids=["garbage", "line", "header", "negative", "twice"],
)
def test_what_is_not_http_is_answered_400_and_harms_nobody(request_bytes, caplog):
    async def scenario(world):
        listener = await world.listen(echo)
        answer = await converse(listener, request_bytes)
        assert answer.startswith(b"HTTP/1.")
        assert b" 400 " in answer.splitlines()[0]
        assert bytes(await world.call(listener, parts=(b"on",))) == b"on"

    run(scenario)
    assert caplog.records == [], "a port scanner writes nothing on its victim's terminal"


def test_a_host_that_nobody_knows_is_told_in_words():
    async def scenario(world):
        async def unknown(*_, **__):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        asyncio.get_running_loop().getaddrinfo = unknown
        with pytest.raises(UnreachableError, match=r"connect to http://pc\.local:7: Name or serv"):
            await world.client.call(
                "http://pc.local:7", "/", (b"",), allocate=bytearray, timeout_seconds=5
            )

    run(scenario, asyncio.new_event_loop)


@pytest.mark.parametrize("half_close", [True, False])
def test_a_body_that_ends_early_is_never_handed_on(half_close):
    async def scenario(world):
        ended = asyncio.Event()
        outcome = []

        async def handler(incoming):
            try:
                await incoming.read_into(memoryview(bytearray(10)))
                outcome.append("complete")
            except (FrameError, asyncio.CancelledError):
                outcome.append("early")
                raise
            finally:
                ended.set()
            return Reply()

        listener = await world.listen(handler)
        reader, writer = await asyncio.open_connection(listener.host, listener.port)
        writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        await writer.drain()
        if half_close:
            writer.write_eof()
            await soon(reader.read())
        writer.close()
        await soon(ended.wait())
        assert outcome == ["early"]

    run(scenario)


def test_a_body_that_stalls_is_given_up(monkeypatch):
    monkeypatch.setattr(aiohttp_server, "STALL_SECONDS", 0.05)

    async def scenario(world):
        listener = await world.listen(echo)
        reader, writer = await asyncio.open_connection(listener.host, listener.port)
        writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        head = await soon(reader.readuntil(b"\r\n\r\n"))
        assert b" 400 " in head.splitlines()[0]
        writer.close()

    run(scenario)


def test_a_caller_that_never_takes_its_reply_loses_its_connection(monkeypatch):
    monkeypatch.setattr(aiohttp_server, "STALL_SECONDS", 0.05)
    size = 64 * 2**20
    drained = aiohttp_server._drained

    async def scenario(world):
        given_up = asyncio.Event()

        async def drained_or_given_up(*arguments):
            try:
                await drained(*arguments)
            finally:
                given_up.set()

        async def handler(incoming):
            return Reply((bytes(size),))

        monkeypatch.setattr(aiohttp_server, "_drained", drained_or_given_up)
        listener = await world.listen(handler)
        reader, writer = await asyncio.open_connection(listener.host, listener.port, limit=2**10)
        writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await soon(given_up.wait())
        received = 0
        with contextlib.suppress(ConnectionError):
            while chunk := await soon(reader.read(2**20)):
                received += len(chunk)
        assert received < size
        writer.close()

    run(scenario)


def test_calls_in_turn_share_one_connection():
    async def scenario(world):
        listener = await world.listen(echo)
        for _ in range(5):
            await world.call(listener, parts=(b"x",))
        assert len(listener._protocols.connections) == 1

    run(scenario)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"220 mail.example ESMTP\r\n", FrameError),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\n<br>", FrameError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", FrameError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", UnreachableError),
        (b"", UnreachableError),
    ],
    ids=["other-protocol", "other-server", "chunked", "cut-off", "silent-close"],
)
def test_answers_that_are_not_psedges(answer, error):
    check_answer(answer, error)


@pytest.mark.parametrize("url", ["", "pc", "ftp://pc:1", "http://", "http://pc:x"])
def test_a_url_that_is_none_is_an_address_error(url):
    async def scenario(world):
        with pytest.raises(AddressError):
            await world.client.call(url, "/x", (), allocate=bounded(1), timeout_seconds=5)

    run(scenario)


def test_an_address_of_another_machine_is_an_address_error():
    async def scenario(world):
        with pytest.raises(AddressError, match=r"192\.0\.2\.1 is not an address of this machine"):
            await world.server.listen("192.0.2.1", 0, echo, body_limit_bytes=1)

    run(scenario)


def test_localhost_has_one_port():
    async def scenario(world):
        listener = await world.server.listen("localhost", 0, echo, body_limit_bytes=LIMIT)
        assert bytes(await world.call(listener, parts=(b"x",))) == b"x"

    run(scenario)
