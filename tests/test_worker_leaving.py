"""Real workers that go: told to, they hand back their share; killed, they are themselves again."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Process, Processes, processes_in, until

CONFIG = """
[model]
factory = "digits-cnn"
[data]
dataset = "digits"
train_limit = 640
test_limit = 160
batch_size = 16
[schedule]
length = {epochs}
[cluster]
workers = 2
wait_seconds = 60
heartbeat_seconds = 0.2
lease_seconds = 3.0
[worker]
threads = 1
"""


@pytest.fixture
def psedge(tmp_path: Path) -> Iterator[Processes]:
    with processes_in(tmp_path) as starter:
        yield starter


def started(psedge: Processes, epochs: int) -> tuple[Process, str, list[Process]]:
    """A run of two workers, pi and nano, that have begun; and its address."""
    config = psedge.folder / "digits.toml"
    config.write_text(CONFIG.format(epochs=epochs))
    server = psedge("server", config, "--port", 0, "--out", "run")
    url = server.expect(r"psedge server ready at (http://\S+)")[1]
    workers = [psedge("worker", "--join", url, "--name", name) for name in ("pi", "nano")]
    until(lambda: status(psedge, url)["samples"] > 500, "training begins")
    return server, url, workers


def status(psedge: Processes, url: str) -> dict[str, Any]:
    process = psedge("status", "--join", url, "--json")
    assert process.exit_code() in (0, 1), process.output()
    return json.loads(process.output())  # type: ignore[no-any-return]


def result(psedge: Processes) -> dict[str, Any]:
    return json.loads((psedge.folder / "run" / "result.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_is_told_to_go_hands_back_its_share(
    psedge: Processes, number: signal.Signals
) -> None:
    server, _, (pi, nano) = started(psedge, epochs=30)
    pi.send(number)
    assert pi.exit_code() == 0, pi.output()
    pi.expect("stopped on this machine")
    assert "goodbye" not in pi.output()
    assert nano.exit_code() == 0, nano.output()
    assert server.exit_code() == 0, server.output()
    assert "taken for dead" not in server.output()
    ended = result(psedge)
    assert ended["samples_seen"] == 30 * 640, "what it had claimed went to the other one"
    assert {row["state"] for row in ended["worker_rows"]} == {"left"}


def test_a_worker_that_was_killed_comes_back_under_its_name(psedge: Processes) -> None:
    server, url, (pi, nano) = started(psedge, epochs=60)
    pi.send(signal.SIGKILL)
    pi.exit_code()
    again = psedge("worker", "--join", url, "--name", "pi")
    again.expect("pi trains on")
    assert {row["name"] for row in status(psedge, url)["workers"]} == {"pi", "nano"}
    for process in (again, nano, server):
        assert process.exit_code() == 0, process.output()
    ended = result(psedge)
    assert ended["samples_seen"] == 60 * 640
    assert {row["name"] for row in ended["worker_rows"]} == {"pi", "nano"}


def test_a_worker_that_is_stopped_while_it_waits_for_others_has_left(psedge: Processes) -> None:
    config = psedge.folder / "digits.toml"
    config.write_text(CONFIG.format(epochs=1))
    server = psedge("server", config, "--port", 0, "--out", "run")
    url = server.expect(r"psedge server ready at (http://\S+)")[1]
    worker = psedge("worker", "--join", url, "--name", "pi")
    worker.expect("waiting for 1 more of 2 workers")
    assert [row["state"] for row in status(psedge, url)["workers"]] == ["alive"]
    worker.send(signal.SIGINT)
    assert worker.exit_code() == 0, worker.output()
    worker.expect("stopped on this machine")
    assert "goodbye" not in worker.output()
    assert [row["state"] for row in status(psedge, url)["workers"]] == ["left"]
