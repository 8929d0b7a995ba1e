"""Memory and disk over a long run with replication and logs: both have to stay flat.

Eight clients push to a shard whose log lies on two servers (`acks = "replica"`, `log = "group"`),
with small segments and snapshots, so that many of them come and go. Prints a row of figures every
twentieth of the way, and draws them.

    python benchmarks/long_log.py --pushes 100000 --plot long-log.png
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from machine import about_this_machine
from replicated_shards import (
    CLIENTS,
    Client,
    Load,
    Server,
    Variant,
    folder_bytes,
    hand_out,
    resident_bytes,
    two_servers,
)

from psedge.loop import run_async
from psedge.protocol.aiohttp_transport import AiohttpTransport

LOAD = Load(20_000, 19_900, "q4")
VARIANT = Variant("replica + group", replicated=True, sync="group")
SEGMENT_BYTES, SNAPSHOT_BYTES = 4 * 10**6, 16 * 10**6
ROWS = 20
#: Memory and disk at the end may exceed those at a quarter of the way by this factor.
FLAT = 1.15
Row = tuple[int, list[float], list[float]]


async def push(servers: list[Server], pushes: int) -> list[Row]:
    """Rows of pushes, MB in the memory of each server, MB on the disk of each."""
    transport = AiohttpTransport()
    await hand_out(
        transport,
        servers,
        [(VARIANT, LOAD)],
        segment_bytes=SEGMENT_BYTES,
        snapshot_bytes=SNAPSHOT_BYTES,
    )
    clients = [Client(worker, 0, LOAD, servers[0].url) for worker in range(CLIENTS)]
    each = pushes // ROWS // CLIENTS
    rows: list[Row] = []
    print(f"{'pushes':>9}{'memory MB':>20}{'disk MB':>20}{'pushes/s':>12}")
    for step in range(ROWS + 1):
        began = time.monotonic()
        if step:

            async def loop(client: Client) -> None:
                for _ in range(each):
                    await client.exchange(transport)

            await asyncio.gather(*(loop(client) for client in clients))
        memory = [resident_bytes(server.pid) / 1e6 for server in servers]
        disk = [folder_bytes(server.folder) / 1e6 for server in servers]
        rows.append((step * each * CLIENTS, memory, disk))
        rate = each * CLIENTS / (time.monotonic() - began) if step else 0.0
        print(
            f"{rows[-1][0]:>9,}{memory[0]:>11.1f}{memory[1]:>9.1f}{disk[0]:>11.1f}{disk[1]:>9.1f}"
            f"{rate:>12,.0f}",
            flush=True,
        )
    await transport.close()
    return rows


def is_flat(rows: list[Row]) -> bool:
    early = [row for row in rows if 0.25 <= row[0] / rows[-1][0] <= 0.5]
    late = [row for row in rows if row[0] / rows[-1][0] > 0.75]
    return all(
        max(row[which][server] for row in late) <= FLAT * max(row[which][server] for row in early)
        for which in (1, 2)
        for server in range(2)
    )


def plot(rows: list[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    pushes = [row[0] for row in rows]
    for column, (which, title) in enumerate(((1, "memory"), (2, "disk"))):
        axes = figure.add_subplot(1, 2, column + 1)
        for server, name in enumerate(("primary", "backup")):
            axes.plot(pushes, [row[which][server] for row in rows], label=name)
        highest = max(max(row[which]) for row in rows)
        axes.set(title=f"{title}, MB", xlabel="pushes", ylim=(0, 1.2 * highest))
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pushes", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="on the disk for the logs")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    print(about_this_machine())
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        two_servers(Path(folder)) as servers,
    ):
        rows = run_async(push(servers, options.pushes))
    if options.plot is not None:
        plot(rows, options.plot)
    flat = is_flat(rows)
    print("flat" if flat else "NOT flat: the last quarter is above the second one")
    return 0 if flat else 1


if __name__ == "__main__":
    raise SystemExit(main())
