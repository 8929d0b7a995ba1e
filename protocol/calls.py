"""Calls: control messages as JSON over any Transport, for those who ask and those who answer.

Every body read here has a bound, and whatever a peer sends instead of the agreed type becomes a
FrameError, so callers deal with psedge's own errors only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np

from psedge.protocol.address import Address
from psedge.protocol.errors import FrameError, RefusedError
from psedge.protocol.ports import Allocate, Buffer, Incoming, Reply, Transport

#: Largest JSON reply that is accepted, and largest JSON request a handler reads by default.
REPLY_LIMIT_BYTES = 16 * 2**20
REQUEST_LIMIT_BYTES = 2**20

T = TypeVar("T")


async def ask(
    transport: Transport,
    address: Address,
    path: str,
    message: msgspec.Struct,
    reply_type: type[T],
    *,
    timeout_seconds: float = 10.0,
) -> T:
    """Send one control message and return the typed answer.

    Raises what `Transport.call` raises, and FrameError when the answer is not a `reply_type`.
    """
    body = await ask_bytes(
        transport,
        address,
        path,
        (msgspec.json.encode(message),),
        limit_bytes=REPLY_LIMIT_BYTES,
        timeout_seconds=timeout_seconds,
    )
    return decoded(body, reply_type, f"{address.url}{path}")


async def ask_bytes(
    transport: Transport,
    address: Address,
    path: str,
    parts: Sequence[Buffer],
    *,
    limit_bytes: int,
    timeout_seconds: float,
) -> memoryview:
    """Send raw parts and return the raw reply, at most `limit_bytes` long."""
    return await transport.call(
        address.url,
        path,
        parts,
        allocate=bounded(limit_bytes),
        timeout_seconds=timeout_seconds,
        token=address.token,
    )


def bounded(limit_bytes: int) -> Allocate:
    """An Allocate that makes a fresh buffer of any length up to `limit_bytes`."""

    def allocate(length: int) -> memoryview:
        if length > limit_bytes:
            raise FrameError(f"the reply is {length} bytes, more than the {limit_bytes} allowed")
        return memoryview(bytearray(length))

    return allocate


async def read_body(incoming: Incoming, limit_bytes: int) -> memoryview:
    """The whole body of a request.

    Raises RefusedError too-large, before anything is read, when it is over `limit_bytes`.
    """
    if incoming.length > limit_bytes:
        raise RefusedError(
            "too-large",
            f"{incoming.path} takes at most {limit_bytes} bytes, got {incoming.length}",
        )
    try:
        # Unlike a bytearray, this memory costs nothing until something is written to it: a peer
        # that only claims to send gigabytes takes none.
        body = np.empty(incoming.length, np.uint8).data
    except MemoryError:
        raise RefusedError(
            "too-large", f"this machine has no memory for a body of {incoming.length} bytes"
        ) from None
    await incoming.read_into(body)
    return body


async def read_message(
    incoming: Incoming, type_: type[T], *, limit_bytes: int = REQUEST_LIMIT_BYTES
) -> T:
    """The body of a request as a `type_`; an empty body is the message without any fields.

    Raises RefusedError too-large, or FrameError when the body is not a `type_`.
    """
    body = await read_body(incoming, limit_bytes)
    return decoded(body if body else b"{}", type_, incoming.path)


def answer(message: msgspec.Struct) -> Reply:
    """A control message as a Reply."""
    return Reply((msgspec.json.encode(message),))


def decoded(body: Buffer, type_: type[T], where: str) -> T:
    """JSON bytes as a `type_`. Raises FrameError, naming `where`, whatever the bytes are."""
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FrameError(f"{where}: not a valid {type_.__name__}: {error}") from error
