"""A few minutes of a bad day in one minute: real processes are killed, paused and cut off.

`make chaos` runs all of `chaos_suite.py`; these are the cases that say most.
"""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest
from chaos_audit import broken_promises, different_copies, result_of, visited
from chaos_cases import (
    BATCH,
    CONFIG,
    DATA,
    SAMPLES_PER_EPOCH,
    Case,
    is_whole_for,
    strike,
    training_in,
)
from chaos_rig import ChaosCluster, RealNetwork, can_make_namespaces
from processes import processes_in, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc as Linux has")

#: `psedge chaos` pauses for less than two seconds first.
SHORT_PAUSE_SEED = 29


def finish(cluster: ChaosCluster, epochs: int, killed_workers: int = 0) -> None:
    """Let the run end, and see that everything is in its place."""
    cluster.supervisor.process.exit_code()
    for node in cluster.nodes():
        assert node.process.exit_code() == 0, node.output()
        assert "Traceback" not in node.output()
    result = result_of(cluster.run_folder)
    samples = epochs * SAMPLES_PER_EPOCH
    assert broken_promises(result, samples, BATCH * killed_workers) == []
    assert result["test_accuracy"] > 0.8
    stores = [cluster.store(name) for name in cluster.servers]
    assert [visited(store) for store in stores] == [samples, samples]
    wrong, compared = different_copies(stores)
    assert wrong == []
    assert compared > 0


def chaos(cluster: ChaosCluster, *arguments: str) -> str:
    """What one strike of `psedge chaos` says."""
    command = ["-m", "psedge", "chaos", "--join", cluster.join, "--every", "0", "--minutes", "0.02"]
    with processes_in(cluster.folder) as start:
        process = start.python(*command, "--seed", SHORT_PAUSE_SEED, *arguments, name="chaos")
        assert process.exit_code() == 0, process.output()
        return process.output()


def test_everybody_is_killed_in_turn_and_nothing_is_lost(tmp_path: Path) -> None:
    epochs = 40
    with training_in(tmp_path, epochs, lambda name: tmp_path / f"{name}-logs") as cluster:
        cluster.start()
        cluster.until(is_whole_for(cluster), "everybody is there")
        for roles in (("backup",), ("primary",), ("supervisor",), ("worker",)):
            strike(cluster, Case(roles, "kill"))  # type: ignore[arg-type]
        said = chaos(cluster, "--roles", "backup", "--faults", "pause")
        assert re.search(r"pause +server \d, backup of shard", said)
        assert "survived 1 strike" in said
        finish(cluster, epochs, killed_workers=1)
        assert "lost" not in cluster.supervisor.output()


def test_psedge_run_itself_starts_its_first_server_again(tmp_path: Path) -> None:
    """That one is struck as the primary of a shard, and chaos leaves it to psedge run."""
    (tmp_path / "chaos_data.py").write_text(DATA)
    (tmp_path / "small.toml").write_text(CONFIG.format(epochs=1000))
    numbers = ("cluster.servers=2", "cluster.workers=1", "durability.log=off")
    options = [part for each in numbers for part in ("--set", each)]
    with processes_in(tmp_path) as start:
        run = start("run", "small.toml", "--allow", "chaos_data", "--out", "run", *options)
        log = tmp_path / "run/logs/server-0.log"
        until(lambda: log.exists() and "ready at" in log.read_text(), "the first server is there")
        found = re.search(r"ready at (\S+)", log.read_text())
        assert found
        arguments = ["--join", found[1], "--roles", "primary", "--faults", "kill", "--seed", 0]
        run.expect("epoch 1/1000")
        chaos = start("chaos", *arguments, "--every", 0, "--minutes", 0.02)
        assert chaos.exit_code() == 0, chaos.output()
        assert re.search(r"kill +server 0, primary of shard 0", chaos.output())
        assert "survived 1 strike" in chaos.output()
        assert "restart" not in chaos.output()
        run.send(signal.SIGINT)
        assert run.exit_code() == 0
        assert run.output().count("it is started again") > 0


def test_a_cable_is_pulled_out_and_plugged_in_again(tmp_path: Path) -> None:
    reason = can_make_namespaces()
    if reason:
        pytest.skip(reason)
    epochs = 24
    with (
        RealNetwork() as network,
        training_in(tmp_path, epochs, lambda name: tmp_path / f"{name}-logs", network) as cluster,
    ):
        cluster.start()
        cluster.until(is_whole_for(cluster), "everybody is there")
        strike(cluster, Case(("primary",), "link down"))
        finish(cluster, epochs)
