"""Bringing the states of all shards back from their primaries, which may change meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from psedge.protocol.address import Address
from psedge.protocol.bundle import unpack
from psedge.protocol.calls import ask_bytes
from psedge.protocol.errors import FrameError, PsedgeError, TrainingError
from psedge.protocol.messages import SHARD_STATE
from psedge.protocol.ports import Transport
from psedge.protocol.shards import ShardOrder
from psedge.supervisor.server_list import ServerEntry
from psedge.supervisor.waits import until

if TYPE_CHECKING:
    from psedge.supervisor.fleet import Fleet

#: Most bytes all shards of one server may bring back for a checkpoint.
STATE_LIMIT_BYTES = 16 * 2**30
BULK_TIMEOUT_SECONDS = 600.0
#: How often a shard's state is asked for where its primary may be replaced, and the longest wait
#: between two tries.
STATE_TRIES = 30
STATE_WAIT_SECONDS = 1.0

Arrays = Mapping[str, NDArray[Any]]
Found = dict[int, tuple[ShardOrder, Arrays]]


async def gather_states(
    fleet: Fleet, transport: Transport, token: str
) -> list[tuple[ShardOrder, Arrays]]:
    """State and arrays of every shard, by shard number.

    Raises TrainingError when a shard cannot be had.
    """
    found: Found = {}
    tries = STATE_TRIES if fleet.replication.replicas > 1 else 1
    failure: TrainingError | None = None
    for attempt in range(tries):
        moved = fleet.moved
        failure = None
        for entry in fleet.servers:
            if set(entry.shards) - found.keys():
                try:
                    found |= await _states_of(entry, transport, token)
                except PsedgeError as error:
                    failure = TrainingError(
                        f"server {entry.server} at {entry.url} does not hand out its shards: "
                        f"{error}"
                    )
                    failure.__cause__ = error
        if found.keys() >= set(fleet.shards()):
            return [found[shard] for shard in fleet.shards()]
        if attempt + 1 < tries:
            await until(moved, STATE_WAIT_SECONDS)
    if failure is not None:
        raise failure
    raise TrainingError(f"{len(found)} of {len(fleet.shards())} shards came back")


async def _states_of(entry: ServerEntry, transport: Transport, token: str) -> Found:
    """Of the shards that workers look for there; a server may hold others."""
    body = await ask_bytes(
        transport,
        Address(entry.url, token),
        SHARD_STATE,
        [b"{}"],
        limit_bytes=STATE_LIMIT_BYTES,
        timeout_seconds=BULK_TIMEOUT_SECONDS,
    )
    return {
        order.assignment.shard: (order, arrays)
        for order, arrays in _split_bundles(body)
        if order.assignment.shard in entry.shards
    }


def _split_bundles(body: memoryview) -> list[tuple[ShardOrder, Arrays]]:
    found: list[tuple[ShardOrder, Arrays]] = []
    at = 0
    while at < len(body):
        length = int.from_bytes(body[at : at + 8], "little")
        bundle = body[at + 8 : at + 8 + length]
        if len(bundle) != length:
            raise FrameError("a shard's state ends before its length")
        found.append(unpack(bundle, ShardOrder))
        at += 8 + length
    return found
