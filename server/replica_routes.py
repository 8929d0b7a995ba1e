"""What a server answers to the primaries and the supervisor about its copies of shards.

Whatever is asked in the name of a term that is over is refused `stale-term` and changes nothing.
"""

from __future__ import annotations

import msgspec
import numpy as np

from psedge.protocol.bundle import unpack
from psedge.protocol.calls import answer, read_body, read_message
from psedge.protocol.errors import FrameError, RefusedError
from psedge.protocol.log_entry import BODY_LIMIT_BYTES, decode_entries
from psedge.protocol.ports import Handler, Incoming, Reply
from psedge.protocol.replicas import (
    REPLICA_APPEND,
    REPLICA_INSTALL,
    REPLICA_REIGN,
    REPLICA_SEAL,
    Append,
    Appended,
    Position,
    Reign,
    Seal,
)
from psedge.protocol.shards import ShardOrder
from psedge.server.append_message import LENGTH_BYTES, head_length, head_of
from psedge.server.copies import Copies
from psedge.server.pump import MESSAGE_LIMIT_BYTES

#: Most bytes of a message with entries: many short ones or the longest.
APPEND_LIMIT_BYTES = MESSAGE_LIMIT_BYTES + BODY_LIMIT_BYTES
#: Most bytes that an image may have: a shard of a billion parameters with two moments.
INSTALL_LIMIT_BYTES = 16 * 2**30


class ReplicaRoutes:
    """The handlers; the copies are the service's."""

    def __init__(self, service: Copies) -> None:
        self._service = service

    def routes(self) -> dict[str, Handler]:
        return {
            REPLICA_APPEND: self.append,
            REPLICA_INSTALL: self.install,
            REPLICA_SEAL: self.seal,
            REPLICA_REIGN: self.reign,
        }

    async def append(self, incoming: Incoming) -> Reply:
        """The primary's next entries; answered once the own log has them."""
        message, data = await _read_append(incoming)
        hosted = self._service.hosted.get(message.shard)
        if hosted is None:
            return self._appended(Appended(Position(), "gap"))
        appended = self._service.append(hosted, message, decode_entries(data))
        await hosted.logged()
        return self._appended(appended)

    async def install(self, incoming: Incoming) -> Reply:
        """The primary's image of a shard, from which this copy goes on."""
        body = await read_body(incoming, INSTALL_LIMIT_BYTES)
        order, arrays = unpack(body, ShardOrder)
        if order.reign is None:
            raise FrameError(f"{REPLICA_INSTALL}: an image comes with a reign")
        hosted = await self._service.install(order, arrays)
        at = hosted.replica.at
        await hosted.logged()
        return self._appended(Appended(at, "appended" if at == order.at else "gap"))

    async def seal(self, incoming: Incoming) -> Reply:
        """A promise to the supervisor; the copy's position decides who is promoted."""
        message = await read_message(incoming, Seal)
        hosted = self._service.copy_of(message.shard)
        return answer(self._service.seal(hosted, message.term))

    async def reign(self, incoming: Incoming) -> Reply:
        """Who holds a shard from now on."""
        return answer(self._service.follow(await read_message(incoming, Reign)))

    def _appended(self, reply: Appended) -> Reply:
        return answer(msgspec.structs.replace(reply, server=self._service.server))


async def _read_append(incoming: Incoming) -> tuple[Append, memoryview]:
    """The head of a message, and its entries in memory of their own.

    Raises RefusedError too-large or FrameError.
    """
    if not LENGTH_BYTES <= incoming.length <= APPEND_LIMIT_BYTES:
        raise RefusedError("too-large", f"{REPLICA_APPEND}: a body of {incoming.length} bytes")
    prefix = bytearray(LENGTH_BYTES)
    await incoming.read_into(memoryview(prefix))
    head = bytearray(head_length(prefix, incoming.length))
    await incoming.read_into(memoryview(head))
    message = head_of(head)
    # The entries' bodies stay in this memory for as long as the copy keeps them.
    data = np.empty(incoming.length - LENGTH_BYTES - len(head), np.uint8).data
    await incoming.read_into(data)
    return message, data
