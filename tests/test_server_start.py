"""A first server that was refused, or ended early: the next start says nothing that is not true."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Processes, processes_in

CONFIG = """
[model]
factory = "digits-cnn"
[data]
dataset = "digits"
[durability]
log = "group"
"""


@pytest.fixture
def psedge(tmp_path: Path) -> Iterator[Processes]:
    with processes_in(tmp_path) as starter:
        yield starter


def test_a_folder_for_logs_that_cannot_be_used_leaves_no_run_behind(psedge: Processes) -> None:
    config, other = psedge.folder / "digits.toml", psedge.folder / "other"
    config.write_text(CONFIG)
    (other / "shard-0").mkdir(parents=True)
    line = ["server", config, "--port", 0, "--out", "run"]
    refused = psedge(*line, "--store", other)
    assert refused.exit_code() == 2, refused.output()
    refused.expect("error: .*other holds logs, but no store.json")
    assert not (psedge.folder / "run").exists()
    psedge(*line, "--store", "logs").expect("psedge server ready")


def test_a_run_that_had_not_begun_is_resumed_as_it_was_started(psedge: Processes) -> None:
    line = ["server", "--port", 0, "--out", "run"]
    first = psedge(*line, "--set", "sync.mode=asp")
    first.expect("In each program")
    first.send(signal.SIGKILL)
    first.exit_code()
    anew = psedge(*line)
    assert anew.exit_code() == 2
    anew.expect("run holds a run already: continue it with --resume")
    resumed = psedge(*line, "--resume")
    resumed.expect("training had not begun yet: it starts afresh")
    resumed.expect("In each program")
    assert 'mode = "asp"' in (psedge.folder / "run" / "config.toml").read_text()
