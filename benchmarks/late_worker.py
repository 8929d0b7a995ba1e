"""A worker that comes when training is under way: how soon it pushes, what the others notice.

Eight workers with loops of their own train at ten steps a second; then more come, one after the
other. Measured from the moment at which the late worker's imports are done to its first
acknowledged push; and the others' time from push to push, before and while it comes.

    python benchmarks/late_worker.py --times 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time

from failover import (
    WINDOW_SECONDS,
    ChaosCluster,
    cluster_in,
    records_of,
    wait_for,
    wait_until,
    warmed_up,
)
from machine import about_this_machine
from push_records import gaps, longest_gap, read_record


def one_more(cluster: ChaosCluster, name: str, others: list[str]) -> dict[str, float]:
    """Let a worker come, and leave again."""
    began = time.monotonic()
    wait_until(began + WINDOW_SECONDS)
    cluster.add_worker(name)
    wait_for(lambda: len(read_record(cluster.record(name)).steps) > 3, "it pushes")
    late = read_record(cluster.record(name))
    end = late.steps[3].ended
    records = [record for who, record in records_of(cluster).items() if who in others]
    before = [gap for record in records for gap in gaps(record, began, late.imported)]
    cluster.workers[name].process.popen.terminate()
    cluster.workers.pop(name).process.exit_code()
    return {
        "first_push_seconds": late.steps[0].ended - late.imported,
        "others_step_seconds_before": statistics.median(before),
        "others_longest_step_before": longest_gap(records, began, late.imported),
        "others_longest_step_meanwhile": longest_gap(records, late.imported, end),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--mode", default="ssp")
    parser.add_argument("--step-seconds", type=float, default=0.1)
    options = parser.parse_args()
    print(about_this_machine())
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster_in(folder, options, options.mode) as cluster,
    ):
        cluster.start()
        warmed_up(cluster)
        others = list(cluster.workers)
        for number in range(options.times):
            row = one_more(cluster, f"late-{number}", others)
            rows.append(row)
            print(json.dumps({key: round(value, 3) for key, value in row.items()}), flush=True)
    for key in rows[0]:
        found = [row[key] for row in rows]
        print(f"{key:<32}{statistics.median(found):8.3f} s, at most {max(found):.3f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
