"""The network of this machine: HTTP/1.1 over TCP, by aiohttp.

Both halves speak plain HTTP, so `curl` and a browser reach a node too. TLS would come in here:
an SSL context for each half, nothing above this file would notice.
"""

from __future__ import annotations

from collections.abc import Sequence

from psedge.protocol.aiohttp_client import AiohttpClient
from psedge.protocol.aiohttp_server import AiohttpListener
from psedge.protocol.ports import Allocate, Buffer, Handler, Listener


class AiohttpTransport:
    """The Transport of real runs; bound to the event loop in which it is first used."""

    def __init__(self) -> None:
        self._client = AiohttpClient()
        self._listeners: list[AiohttpListener] = []

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
        return await self._client.call(
            url, path, parts, allocate=allocate, timeout_seconds=timeout_seconds, token=token
        )

    async def listen(
        self, host: str, port: int, handler: Handler, *, body_limit_bytes: int
    ) -> Listener:
        listener = AiohttpListener(handler, body_limit_bytes)
        await listener.open(host, port)
        self._listeners.append(listener)
        return listener

    async def close(self) -> None:
        for listener in self._listeners:
            await listener.close()
        await self._client.close()
