"""Every role in turn, pairs of them, and all: in every way that real processes can be struck.

Each case is a training of its own: two servers that back up each other and keep logs, a supervisor
apart, two workers. The fault comes in the middle; the run must finish with every sample in its
place, no acknowledged push lost, equal copies, and a final loss within the noise of runs without
faults. Links are cut and throttled where root may make network namespaces.

    make chaos                                          # all of it, some fifteen minutes
    python tests/chaos_suite.py --only "link down"      # cases whose name has these words
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chaos_audit import broken_promises, different_copies, result_of, visited
from chaos_cases import BATCH, ROLES, SAMPLES_PER_EPOCH, Case, is_whole_for, strike, training_in
from chaos_rig import RealNetwork, can_make_namespaces

EPOCHS = 50
#: Runs without faults, whose losses are the noise.
QUIET_RUNS = 5
#: A loss is within the noise if it is so many standard deviations, or this share, from the mean.
DEVIATIONS, SHARE = 4.0, 0.15
DISK_MEGABYTES = 24


def cases() -> list[Case]:
    """All of them; a disk is full only where something is written. Last, everybody dies at once."""
    alone = [
        Case((role,), fault)
        for fault in ("kill", "pause", "link down", "slow link")
        for role in ROLES
    ]
    full = [Case((role,), "disk full") for role in ("primary", "backup")]
    pairs = [Case(pair, "kill") for pair in itertools.combinations(ROLES, 2)]
    cut = [Case(("primary", "worker"), "link down"), Case(("backup", "supervisor"), "link down")]
    return [*alone, *full, *pairs, *cut, Case(ROLES, "kill")]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system in memory that is soon full; only root may make one."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(folder)], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def run(folder: Path, case: Case | None) -> dict[str, Any]:
    """One training, struck in the middle; `whole` says how long the fault could be noticed."""
    with contextlib.ExitStack() as stack:
        network = None
        if case is not None and case.needs_network:
            network = stack.enter_context(RealNetwork())
        for number in range(2):
            store = folder / f"server-{number}-logs"
            store.mkdir()
            if case is not None and case.fault == "disk full":
                stack.enter_context(small_disk(store))
        cluster = stack.enter_context(
            training_in(folder, EPOCHS, lambda name: folder / f"{name}-logs", network)
        )
        cluster.start()
        cluster.until(is_whole_for(cluster), "everybody is there")
        took = strike(cluster, case) if case is not None else 0.0
        for node in cluster.nodes():
            if node.process.exit_code():
                raise AssertionError(f"{node.name} failed:\n{node.output()[-3000:]}")
        result = result_of(cluster.run_folder)
        samples = EPOCHS * SAMPLES_PER_EPOCH
        cut = case is not None and case.fault == "kill" and "worker" in case.roles
        cut += sum(node.output().count("joined again") for node in cluster.workers.values())
        wrong = broken_promises(result, samples, BATCH * cut)
        stores = [cluster.store(name) for name in cluster.servers]
        wrong += [
            f"{name}: shard 0 has seen {seen} samples, not {samples}"
            for name, seen in ((store.name, visited(store)) for store in stores)
            if seen != samples
        ]
        different, compared = different_copies(stores)
        wrong += different
        if "Traceback" in cluster.logs(10_000):
            wrong.append("a traceback")
        return {"loss": result["test_loss"], "wrong": wrong, "whole": took, "compared": compared}


def guarded(case: Case | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return run(Path(folder), case)
        except AssertionError as error:
            return {"loss": None, "wrong": [str(error)], "whole": None, "compared": 0}


def is_noise(loss: float, quiet: list[float]) -> bool:
    mean = statistics.mean(quiet)
    return abs(loss - mean) <= max(DEVIATIONS * statistics.stdev(quiet), SHARE * mean)


def possible(case: Case, no_namespaces: str) -> str:
    """Empty, or why a case cannot be tried here."""
    if case.needs_network:
        return no_namespaces
    if case.fault == "disk full" and os.geteuid() != 0:
        return "a small file system needs root"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name has these words")
    parser.add_argument("--quiet-runs", type=int, default=QUIET_RUNS)
    options = parser.parse_args()
    quiet = [float(guarded(None)["loss"]) for _ in range(options.quiet_runs)]
    print(
        f"{len(quiet)} runs without faults: test loss {statistics.mean(quiet):.4f}, "
        f"standard deviation {statistics.stdev(quiet):.4f}\n"
    )
    print(f"{'case':<36}{'whole after':>12}{'test loss':>11}{'copies':>8}  verdict")
    chosen = [case for case in cases() if options.only in case.name]
    failures = judge(chosen, quiet, can_make_namespaces(), print)
    print(f"\n{len(chosen)} cases, {failures} failed")
    return 1 if failures else 0


def judge(
    chosen: list[Case], quiet: list[float], no_namespaces: str, say: Callable[[str], None]
) -> int:
    """Run the cases, say what became of each; returns how many failed."""
    failures = 0
    for case in chosen:
        why = possible(case, no_namespaces)
        if why:
            say(f"{case.name:<36}{'':>31}  skipped: {why}")
            continue
        began = time.monotonic()
        found = guarded(case)
        wrong = list(found["wrong"])
        if found["loss"] is not None and not is_noise(found["loss"], quiet):
            wrong.append(f"the loss {found['loss']:.4f} is no noise")
        failures += bool(wrong)
        cells = (
            "" if found["whole"] is None else f"{found['whole']:.1f} s",
            "" if found["loss"] is None else f"{found['loss']:.4f}",
            f"{found['compared']} equal" if not wrong else "",
        )
        verdict = "; ".join(wrong) or f"held ({time.monotonic() - began:.0f} s)"
        say(f"{case.name:<36}{cells[0]:>12}{cells[1]:>11}{cells[2]:>8}  {verdict}")
        sys.stdout.flush()
    return failures


if __name__ == "__main__":
    sys.exit(main())
