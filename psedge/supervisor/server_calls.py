"""Short questions of the supervisor to one server: are you there, promise this, know that."""

from __future__ import annotations

import asyncio
from typing import Literal, TypeVar

import msgspec

from psedge.protocol.address import Address
from psedge.protocol.calls import ask
from psedge.protocol.errors import PsedgeError, UnreachableError
from psedge.protocol.messages import HELLO, Hello, HelloReply
from psedge.protocol.ports import Transport
from psedge.protocol.replicas import REPLICA_REIGN, REPLICA_SEAL, Reign, ReplicaState, Seal
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION
from psedge.supervisor.server_list import ServerEntry

#: A server that is there answers these within milliseconds, also on a loaded machine.
ANSWER_SECONDS = 1.0

T = TypeVar("T", bound=msgspec.Struct)


class ServerCalls:
    """Each is answered within ANSWER_SECONDS or not at all."""

    def __init__(self, transport: Transport, token: str) -> None:
        self._transport = transport
        self._token = token
        self._probes: dict[int, asyncio.Task[Literal["answers", "refused", "silent"]]] = {}

    async def probe(self, entry: ServerEntry) -> Literal["answers", "refused", "silent"]:
        """Whether anybody is there. Several who ask about one server at a time share the answer."""
        task = self._probes.get(entry.server)
        if task is None or task.done():
            task = self._probes[entry.server] = asyncio.ensure_future(self._probe(entry))
        return await asyncio.shield(task)

    async def seal(self, entry: ServerEntry, shard: int, term: int) -> ReplicaState:
        """Raises what `ask` raises."""
        return await self._ask(entry, REPLICA_SEAL, Seal(shard, term), ReplicaState)

    async def tell(self, entry: ServerEntry, reign: Reign) -> ReplicaState:
        """Raises what `ask` raises."""
        return await self._ask(entry, REPLICA_REIGN, reign, ReplicaState)

    async def _probe(self, entry: ServerEntry) -> Literal["answers", "refused", "silent"]:
        try:
            await self._ask(entry, HELLO, Hello(__version__, WIRE_VERSION), HelloReply)
        except UnreachableError as error:
            return "refused" if error.refused else "silent"
        except PsedgeError:
            return "answers"
        return "answers"

    async def _ask(
        self, entry: ServerEntry, path: str, message: msgspec.Struct, reply_type: type[T]
    ) -> T:
        address = Address(entry.url, self._token)
        return await ask(
            self._transport, address, path, message, reply_type, timeout_seconds=ANSWER_SECONDS
        )
