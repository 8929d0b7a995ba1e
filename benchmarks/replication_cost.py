"""What safety costs: exchanges per second with a backup and with logs, beside those without.

Eight concurrent clients in a process of their own drive one server over loopback; each exchange
pushes a gradient and pulls fresh parameters with the same codec both ways. All variants take turns
within one run, so a busy machine slows all of them down. Ratios are medians over the rounds, each
to the plain shard of the same round.

    plain     one copy, no log
    replica   a backup in a second process; acks = "replica"
    group     one copy; the log is written at once, and forced to disk every second
    always    one copy; a push is acknowledged when the disk has it

    python benchmarks/replication_cost.py                 # some three minutes
    python benchmarks/replication_cost.py --folder /mnt/sd-card
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
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
    exchanges_per_second,
    folder_bytes,
    hand_out,
    two_servers,
)

from psedge.loop import run_async
from psedge.protocol.aiohttp_transport import AiohttpTransport

VARIANTS = (
    Variant("plain"),
    Variant("replica", replicated=True),
    Variant("group", sync="group"),
    Variant("always", sync="always"),
    Variant("replica + group", replicated=True, sync="group"),
)
#: ResNet-32 for CIFAR-10, of whose parameters so many are weights of matrices; and a small model.
LOADS = (
    Load(464_154, 461_872, "identity"),
    Load(464_154, 461_872, "float16"),
    Load(464_154, 461_872, "q4"),
    Load(20_000, 19_900, "q4"),
)
Rates = dict[tuple[Load, str], list[float]]


async def measure(servers: list[Server], rounds: int, seconds: float) -> Rates:
    transport = AiohttpTransport()
    shards = [(variant, load) for load in LOADS for variant in VARIANTS]
    await hand_out(transport, servers, shards)
    clients = {
        (load, variant.name): [
            Client(worker, number, load, servers[0].url) for worker in range(CLIENTS)
        ]
        for number, (variant, load) in enumerate(shards)
    }
    rates: Rates = {key: [] for key in clients}
    for each in clients.values():
        await exchanges_per_second(transport, each, seconds / 3)
    for number in range(rounds):
        # Nobody always comes after the same one.
        keys = list(clients)
        for key in keys[number % len(keys) :] + keys[: number % len(keys)]:
            rates[key].append(await exchanges_per_second(transport, clients[key], seconds))
            await asyncio.to_thread(settle, servers)
        print(f"round {number + 1} of {rounds}", flush=True)
    await transport.close()
    return rates


def settle(servers: list[Server]) -> None:
    """Return when what was logged is on the disk, so that the next one does not pay for it."""
    before = -1
    while before != (now := sum(folder_bytes(server.folder) for server in servers)):
        before = now
        time.sleep(0.1)
    os.sync()


def sync_milliseconds(folder: Path) -> float:
    """Median time to force a few bytes to the disk that the logs are on."""
    times = []
    with (folder / "try").open("wb") as file:
        for _ in range(50):
            began = time.monotonic()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            times.append(time.monotonic() - began)
    return 1e3 * statistics.median(times)


def show(rates: Rates) -> None:
    print(f"{'parameters':>10}  {'codec':<9}" + "".join(f"{v.name:>22}" for v in VARIANTS))
    for load in LOADS:
        plain = rates[load, "plain"]
        cells = []
        for variant in VARIANTS:
            found = rates[load, variant.name]
            ratios = [one / other for one, other in zip(found, plain, strict=True)]
            cells.append(f"{statistics.median(found):,.0f}/s {statistics.median(ratios):5.2f}")
        row = "".join(f"{cell:>22}" for cell in cells)
        print(f"{load.parameters:>10,}  {load.codec:<9}{row}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each variant in a round")
    parser.add_argument("--folder", type=Path, help="on the disk for the logs")
    options = parser.parse_args()
    print(about_this_machine())
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        print(f"a sync of 4 kB in {folder.parent} takes {sync_milliseconds(folder):.2f} ms")
        with two_servers(folder) as servers:
            show(run_async(measure(servers, options.rounds, options.seconds)))


if __name__ == "__main__":
    main()
