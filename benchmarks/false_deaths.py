"""Deaths that never happened: a healthy cluster on a machine that has no time for it.

Busy loops at normal priority, twice as many as there are cores, compete with a supervisor, two
servers and some workers for as many minutes as asked for. Everybody is alive all the time, so
everyone who is taken for dead is a false death. The settings are psedge's defaults.

    python benchmarks/false_deaths.py --minutes 10
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from chaos_rig import ChaosCluster
from machine import about_this_machine
from push_records import longest_gap, read_record

from psedge.protocol.status import Status

CONFIG = """
[optimizer]
lr = 0.01
[replication]
replicas = 2
acks = "replica"
"""


def spin(until: float) -> None:
    while time.monotonic() < until:
        pass


def deaths(status: Status) -> list[str]:
    """Who is not there, and what the supervisor has said about deaths."""
    gone = [f"worker {w.name} is {w.state}" for w in status.workers if w.state == "dead"]
    gone += [f"server {s.server} is {s.state}" for s in status.servers if s.state == "dead"]
    return gone + [note for note in status.notes if "dead" in note or "dropped" in note]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--loops", type=int, default=2 * (os.cpu_count() or 1))
    options = parser.parse_args()
    print(about_this_machine())
    with (
        tempfile.TemporaryDirectory() as folder,
        ChaosCluster(
            Path(folder),
            CONFIG,
            workers=options.workers,
            worker_script="pushing_worker.py",
            worker_arguments=["--step-seconds", "0.2"],
        ) as cluster,
    ):
        cluster.start()
        cluster.until(lambda s: s.pushes_applied > 10 * options.workers, "everybody pushes")
        began = time.monotonic()
        end = began + 60 * options.minutes
        loops = [
            multiprocessing.Process(target=spin, args=(end,), daemon=True)
            for _ in range(options.loops)
        ]
        for loop in loops:
            loop.start()
        found: list[str] = []
        status = cluster.status()
        while time.monotonic() < end:
            time.sleep(1.0)
            status = cluster.asked() or status
            for death in deaths(status):
                if death not in found:
                    found.append(death)
                    print(f"{time.monotonic() - began:6.0f} s  {death}", flush=True)
        records = [read_record(cluster.record(name)) for name in cluster.workers]
        again = cluster.logs(10_000).count("joined again")
        for loop in loops:
            loop.join()
    print(f"{options.loops} busy loops, {options.workers} workers, {options.minutes:g} minutes")
    print(f"false deaths            {len(found)}")
    print(f"workers that rejoined   {again}")
    print(f"pushes applied          {status.pushes_applied:,}")
    print(f"longest pause of a push {longest_gap(records, began, end):.2f} s")
    return 1 if found or again else 0


if __name__ == "__main__":
    sys.exit(main())
