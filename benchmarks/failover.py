"""How long training notices that a process was killed: real processes, kill -9, default settings.

A supervisor apart, two servers that back up each other (`acks = "replica"`), eight workers with
loops of their own at ten steps a second, each of which writes down when a push was acknowledged.

    python benchmarks/failover.py                 # all of it, some five minutes on two cores
    python benchmarks/failover.py primary --times 10
    python benchmarks/failover.py worker          # under ssp: how long the others wait
    python benchmarks/failover.py supervisor      # pushes while it is away
    python benchmarks/failover.py claims --mode bsp

primary    kill a primary, time until each worker has a push acknowledged that it began after that,
           its pause between two steps included; start the server again, wait until it is a backup
           again, kill the other one. At the end the pushes that workers know to be acknowledged
           are compared with what the servers have counted.
frozen     the same with a primary that stands still, as on SIGSTOP or with the cable pulled: nobody
           can prove that it is dead, so its silence has to be long enough
worker     kill one of the workers, time until those that wait for it at the gate go on
supervisor kill it, compare the longest time between two pushes with that before; start it again
claims     the same with `psedge worker`s, which train on samples that it hands out
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from chaos_rig import ChaosCluster
from machine import about_this_machine
from push_records import Record, first_after, gaps, longest_gap, read_record

from psedge.protocol.status import Status

CONFIG = """
[optimizer]
lr = 0.01
[sync]
mode = "{mode}"
staleness_bound = 3
"""
#: Of workers that claim samples, which do not run out.
CLAIMING = """
[model]
factory = "mlp"
[data]
dataset = "digits"
batch_size = 8
[schedule]
length = 1000
"""
PATIENCE_SECONDS = 60.0
#: Workers that claim samples know by then for how long they are to hold some.
CLAIMING_SECONDS = 5.0
#: Before and after a fault the same time is looked at.
WINDOW_SECONDS = 10.0
#: Between two deaths of a primary everybody trains for so long.
TRAINING_SECONDS = 3.0
FROZEN_TIMES = 3


def cluster_in(
    folder: str, options: argparse.Namespace, mode: str, *, claiming: bool = False
) -> ChaosCluster:
    return ChaosCluster(
        Path(folder),
        CONFIG.format(mode=mode) + CLAIMING * claiming,
        servers=options.servers,
        workers=options.workers,
        worker_script="claiming_worker.py" if claiming else "pushing_worker.py",
        worker_arguments=["--step-seconds", options.step_seconds],
    )


def records_of(cluster: ChaosCluster) -> dict[str, Record]:
    return {name: read_record(cluster.record(name)) for name in cluster.workers}


def is_replicated(status: Status) -> bool:
    return bool(status.shards) and all(
        shard.primary >= 0 and len(shard.backups) >= shard.wanted for shard in status.shards
    )


def warmed_up(cluster: ChaosCluster) -> None:
    """Everybody pushes and each shard has its copies."""
    cluster.until(is_replicated, "each shard has its copies")
    wait_for(lambda: all(len(r.steps) > 20 for r in records_of(cluster).values()), "all push")


def wait_for(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"in vain: {what}")
        time.sleep(0.02)


def wait_until(moment: float) -> None:
    """A window is over; all that is waited for here is time."""
    time.sleep(max(0.0, moment - time.monotonic()))


def of_a_primary(options: argparse.Namespace) -> dict[str, Any]:
    return of_primaries(options, options.times, frozen=False)


def of_a_frozen_primary(options: argparse.Namespace) -> dict[str, Any]:
    return of_primaries(options, min(options.times, FROZEN_TIMES), frozen=True)


def of_primaries(options: argparse.Namespace, times: int, *, frozen: bool) -> dict[str, Any]:
    """Strike one primary after the other, with some training in between."""
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster_in(folder, options, options.mode) as cluster,
    ):
        cluster.start()
        warmed_up(cluster)
        rows = []
        for number in range(times):
            wait_until(time.monotonic() + TRAINING_SECONDS)
            row = one_failover(cluster, number, frozen=frozen)
            rows.append(row)
            print(
                f"{number + 1:4}. {row['name']}, primary of {row['shards']}: the first worker "
                f"pushes again after {row['first']:.2f} s, the last after {row['last']:.2f} s; "
                f"whole after {row['whole']:.1f} s",
                flush=True,
            )
        audited = audit(cluster)
        notes = [note for note in cluster.status().notes if "lost" in note]
    last = [row["last"] for row in rows]
    return {
        "times": len(rows),
        "median_seconds": statistics.median(last),
        "range_seconds": [min(last), max(last)],
        "median_whole_seconds": statistics.median(row["whole"] for row in rows),
        **audited,
        "reported_losses": notes,
    }


def one_failover(cluster: ChaosCluster, number: int, *, frozen: bool) -> dict[str, Any]:
    """Kill or stop the next primary, measure, and bring it back."""
    status = cluster.until(is_replicated, "each shard has its copies")
    processes = {server.server: server.process for server in status.servers}
    names = {node.process.pid: name for name, node in cluster.servers.items()}
    alive = sorted((names[processes[p]], p) for p in {shard.primary for shard in status.shards})
    name, server = alive[number % len(alive)]
    node = cluster.servers[name]
    answers: list[float] = []

    def all_push() -> bool:
        found = [first_after(record, struck) for record in records_of(cluster).values()]
        answers[:] = [step.ended - struck for step in found if step is not None]
        return len(answers) == len(found)

    if frozen:
        struck = time.monotonic()
        with node.paused():
            wait_for(all_push, f"all workers push although {name} stands still")
    else:
        struck = node.kill()
        wait_for(all_push, f"all workers push after the death of {name}")
        node.start()
    cluster.until(
        lambda s: is_replicated(s) and all(x.primary != server for x in s.shards),
        f"{name} is a backup again",
    )
    return {
        "name": name,
        "shards": sum(shard.primary == server for shard in status.shards),
        "first": min(answers),
        "last": max(answers),
        "whole": time.monotonic() - struck,
    }


def audit(cluster: ChaosCluster) -> dict[str, int]:
    """Pushes that workers know to be acknowledged beside what each shard has counted for them.

    Training goes on meanwhile: a push that is on its way may be counted and not acknowledged yet.
    """
    before, counted, after = records_of(cluster), cluster.ledgers(), records_of(cluster)
    lost = twice = 0
    for workers in counted.values():
        for name, record in before.items():
            progress = workers[record.number]
            applied = progress.pushes_applied
            lost += max(0, record.steps[-1].clock - applied)
            twice += max(0, applied - progress.clock, applied - after[name].steps[-1].clock - 1)
    acknowledged = sum(record.steps[-1].clock for record in before.values())
    return {"acknowledged": acknowledged, "lost_acknowledged": lost, "applied_twice": twice}


def of_a_worker(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, cluster_in(folder, options, "ssp") as cluster:
        cluster.start()
        warmed_up(cluster)
        # How long silence may be is measured for each worker, from its latest heartbeats.
        wait_until(time.monotonic() + 2 * WINDOW_SECONDS)
        victim, *others = cluster.workers
        killed = cluster.workers[victim].kill()
        status = cluster.until(
            lambda s: any(w.name == victim and w.state == "dead" for w in s.workers),
            "it is taken for dead",
        )
        wait_until(time.monotonic() + 1)
        end = time.monotonic()
        records = [read_record(cluster.record(name)) for name in others]
        stalls = [max(gaps(record, killed, end)) for record in records]
        going = all(record.steps[-1].ended > end - 1 for record in records)
        pushed = len(read_record(cluster.record(victim)).steps)
        cluster.workers[victim].start()
        wait_for(lambda: len(read_record(cluster.record(victim)).steps) > pushed, "it is back")
    reasons = [e.reason for e in status.journal if e.kind == "worker" and victim in e.subject]
    return {
        "gate_released_after_seconds": max(stalls),
        "others_go_on": going,
        "reason": reasons[-1] if reasons else "",
    }


def of_the_supervisor(options: argparse.Namespace, *, claiming: bool = False) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster_in(folder, options, options.mode, claiming=claiming) as cluster,
    ):
        cluster.start()
        warmed_up(cluster)
        wait_until(time.monotonic() + CLAIMING_SECONDS * claiming)
        before = time.monotonic()
        wait_until(before + WINDOW_SECONDS)
        killed = cluster.supervisor.kill()
        wait_until(killed + WINDOW_SECONDS)
        back = time.monotonic()
        cluster.restart_supervisor()
        cluster.until(
            lambda s: (
                is_replicated(s)
                and sum(w.state == "alive" for w in s.workers) == len(cluster.workers)
            ),
            "everybody is attached again",
        )
        attached = time.monotonic() - back
        wait_until(back + WINDOW_SECONDS)
        records = list(records_of(cluster).values())
        rejoined = cluster.logs(10_000).count("joined again")
    return {
        "longest_gap_before_seconds": longest_gap(records, before, killed),
        "longest_gap_while_away_seconds": longest_gap(records, killed, back),
        "longest_gap_after_its_return_seconds": longest_gap(records, back, back + WINDOW_SECONDS),
        "attached_again_seconds": attached,
        "workers_that_rejoined": rejoined,
    }


def of_the_supervisor_that_hands_out(options: argparse.Namespace) -> dict[str, Any]:
    return of_the_supervisor(options, claiming=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {
        "primary": of_a_primary,
        "frozen": of_a_frozen_primary,
        "worker": of_a_worker,
        "supervisor": of_the_supervisor,
        "claims": of_the_supervisor_that_hands_out,
    }
    parser.add_argument("parts", nargs="*", metavar="|".join(parts), help="all by default")
    parser.add_argument("--times", type=int, default=10, help="deaths of a primary")
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--mode", default="asp", help="sync.mode, where the part does not say")
    parser.add_argument("--step-seconds", type=float, default=0.1)
    options = parser.parse_args()
    print(about_this_machine())
    for name in options.parts or parts:
        print(f"{name}:", flush=True)
        print(json.dumps(parts[name](options), indent=1), flush=True)


if __name__ == "__main__":
    main()
