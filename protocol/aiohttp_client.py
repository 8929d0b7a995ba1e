"""The calling half of the aiohttp transport: one request, its reply streamed into place.

Connections are kept and reused; each carries one request at a time, so calls to one peer in
parallel take as many connections. The parts of a request go to the socket as they are, without
being joined, and the reply goes chunk by chunk into the buffer that the caller allocates.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
from collections.abc import Sequence

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import StreamWriter
from yarl import URL

from psedge.protocol.checksum import CHECKSUM_HEADER, BodyCheck, checksum_of
from psedge.protocol.errors import (
    AddressError,
    DamagedError,
    FrameError,
    PsedgeError,
    UnreachableError,
)
from psedge.protocol.ports import Allocate, Buffer
from psedge.protocol.refusals import REFUSAL_LIMIT_BYTES, error_of_refusal

#: Received bytes that may wait in memory, per connection, for the caller to read them.
RECEIVE_BUFFER_BYTES = 2**20
#: Idle connections are closed before the server does so, which would lose a request now and then.
IDLE_SECONDS = 30.0

_JOINED_BYTES = 4096
_NO_AUTOMATIC_HEADERS = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


class AiohttpClient:
    """Calls to any number of peers; bound to the event loop in which the first call is made."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._in_flight: set[_Parts] = set()

    async def call(
        self,
        url: str,
        path: str,
        parts: Sequence[Buffer],
        *,
        allocate: Allocate,
        timeout_seconds: float,
        token: str = "",
    ) -> memoryview:
        """See `ports.Transport.call`."""
        headers = {CHECKSUM_HEADER: checksum_of(parts)}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        body = _Parts(parts)
        self._in_flight.add(body)
        try:
            async with self._opened().post(
                _url(url, path),
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            ) as response:
                if response.status != 200:
                    raise await _refusal(response, url)
                return await _read_body(response, allocate, url)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, DamagedError) as error:
            raise _as_ours(error, url, timeout_seconds) from error
        finally:
            self._in_flight.discard(body)
            body.recall()

    async def close(self) -> None:
        """Close every connection; calls in flight end with an UnreachableError."""
        self._closed = True
        for body in list(self._in_flight):
            # What a peer does not read would never leave, and its connection never close.
            body.recall()
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise UnreachableError("this transport is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=_NO_AUTOMATIC_HEADERS,
                read_bufsize=RECEIVE_BUFFER_BYTES,
            )
        return self._session


class _Parts(aiohttp.Payload):
    """A request's body in several pieces, none of them copied."""

    def __init__(self, parts: Sequence[Buffer]) -> None:
        super().__init__(parts)
        self._parts = [memoryview(part).cast("B") for part in parts]
        self._size = sum(map(len, self._parts))
        self._transport: asyncio.WriteTransport | None = None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._parts).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        assert isinstance(writer, StreamWriter)
        self._transport = writer.transport
        if self._parts and len(self._parts[0]) > _JOINED_BYTES:
            # Sends the head by itself: aiohttp would make one string of it and the first part.
            await writer.write(b"")
        for part in self._parts:
            await writer.write(part)

    def recall(self) -> None:
        """Give up what is not sent: the call is over, and its parts may change from now on.

        Closing alone would go on sending them, and the peer would take a mix for a whole body.
        """
        if self._transport is not None and self._transport.get_write_buffer_size():
            self._transport.abort()


def _as_ours(error: Exception, url: str, timeout_seconds: float) -> PsedgeError:
    """What befell a call, as the error that `ports.Transport.call` promises."""
    if isinstance(error, DamagedError):
        return UnreachableError(f"the answer of {url} was damaged on its way")
    if isinstance(error, (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)):
        return AddressError(f"{url!r} is not an address such as http://host:7700")
    if isinstance(error, asyncio.TimeoutError):
        return UnreachableError(f"{url} gave no answer in {timeout_seconds:g} s")
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        # Looking up a name fails with numbers of its own, below zero.
        named = os.strerror(number) if number and number > 0 else error.os_error.strerror
        return UnreachableError(
            f"cannot connect to {url}: {named or error.os_error}",
            refused=number == errno.ECONNREFUSED,
        )
    if isinstance(error, aiohttp.ClientResponseError):
        first_line = error.message.partition("\n")[0].rstrip(":")
        return FrameError(f"{url} does not speak HTTP: {first_line}")
    return UnreachableError(f"the connection to {url} broke: {error}")


@functools.lru_cache(maxsize=1024)
def _url(url: str, path: str) -> URL:
    """Raises aiohttp.InvalidURL."""
    try:
        return URL(url + path)
    except ValueError as error:
        raise aiohttp.InvalidURL(url) from error


async def _read_body(response: aiohttp.ClientResponse, allocate: Allocate, url: str) -> memoryview:
    length = response.content_length
    if length is None:
        raise FrameError(f"{url} answered without a Content-Length")
    body = allocate(length)
    target = body.cast("B")
    check = BodyCheck(response.headers.get(CHECKSUM_HEADER, ""), length)
    filled = 0
    while filled < length:
        chunk = await _next_chunk(response, url)
        if not chunk:
            raise UnreachableError(f"{url} hung up in the middle of its answer")
        target[filled : filled + len(chunk)] = chunk
        check.add(chunk)
        filled += len(chunk)
    return body


async def _refusal(response: aiohttp.ClientResponse, url: str) -> PsedgeError:
    content = b""
    while len(content) < REFUSAL_LIMIT_BYTES:
        chunk = await _next_chunk(response, url)
        if not chunk:
            break
        content += chunk
    announced = response.headers.get(CHECKSUM_HEADER, "")
    BodyCheck(announced, response.content_length or 0).add(content)
    return error_of_refusal(content, url, f"{response.status} {response.reason}")


async def _next_chunk(response: aiohttp.ClientResponse, url: str) -> bytes:
    """Some more of a reply's body, as it arrived; nothing at its end."""
    try:
        # Unlike the other ways to read, this one never joins chunks.
        chunk, _ = await response.content.readchunk()
    except RuntimeError as error:
        # aiohttp's word for a connection that this side has closed meanwhile.
        raise UnreachableError(f"the connection to {url} broke: {error}") from error
    return chunk
