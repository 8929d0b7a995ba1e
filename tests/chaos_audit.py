"""What must hold when a run of real processes is over, whatever was done to them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from psedge.protocol.disk import Disk
from psedge.server.log_folder import LogFolder, shard_folder
from psedge.server.recovery import Recovered, recover
from psedge.server.replica import Replica, replica_of


def result_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    return found


def broken_promises(result: dict[str, Any], samples: int, again: int = 0) -> list[str]:
    """What is wrong with a result.

    samples: all that the data plan has handed out, each once. again: the result counts what the
    shard with the most has seen. A worker that is killed in the middle of a push, or comes in
    again, may leave it with some shards only; so many samples may then be visited again.
    """
    wrong = []
    if result["phase"] != "finished":
        wrong.append(f"the run has {result['phase']}: {result['reason']}")
    if not samples <= result["samples_seen"] <= samples + again:
        wrong.append(f"{result['samples_seen']} samples were visited, not {samples}")
    pushes = result["pushes_applied"] + result["pushes_refused"]
    acknowledged = sum(row["steps"] for row in result["worker_rows"])
    if pushes < acknowledged:
        wrong.append(f"{acknowledged} pushes were acknowledged, and {pushes} are in the servers")
    return wrong


def visited(store: Path) -> int:
    """Samples that shard 0 has seen, by which the data plan goes; from a server's log."""
    copy = _copies_in(store)[0]
    return _replayed(copy, _end(copy)).shard.summary().samples_seen


def different_copies(stores: list[Path]) -> tuple[list[str], int]:
    """Shards whose copies differ at the same place of their logs, and how many could be compared.

    stores: the folders of servers that have ended.
    """
    wrong, compared = [], 0
    found = [_copies_in(store) for store in stores]
    for shard in sorted(set().union(*found)):
        copies = [copies[shard] for copies in found if shard in copies]
        first = max(copy.order.at.index for copy in copies)
        last = min(_end(copy) for copy in copies)
        if len(copies) < 2 or first > last:
            continue
        replicas = [_replayed(copy, last) for copy in copies]
        compared += 1
        positions = {(replica.at, replica.shard.digest()) for replica in replicas}
        if len(positions) > 1:
            wrong.append(f"copies of shard {shard} differ at entry {last}: {positions}")
    return wrong, compared


def _copies_in(store: Path) -> dict[int, Recovered]:
    run = json.loads((store / "store.json").read_text())["run"]
    shards = [int(path.name.removeprefix("shard-")) for path in store.glob("shard-*")]
    found = {}
    for shard in shards:
        folder = LogFolder(Disk(store), shard_folder(shard))
        copy = asyncio.run(recover(folder, run, shard)).recovered
        if copy is not None:
            found[shard] = copy
    return found


def _end(copy: Recovered) -> int:
    return copy.entries[-1].index if copy.entries else copy.order.at.index


def _replayed(copy: Recovered, last: int) -> Replica:
    entries = [entry for entry in copy.entries if entry.index <= last]
    return replica_of(copy.order, copy.arrays, entries, server=0)
