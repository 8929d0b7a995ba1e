"""psedge as its users run it: real processes on this machine, talking over loopback."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Processes, processes_in, until

CONFIG = """
[model]
factory = "digits-cnn"
[data]
dataset = "digits"
train_limit = 640
test_limit = 160
batch_size = 16
[optimizer]
lr = 0.05
[schedule]
kind = "cosine"
length = {length}
[cluster]
servers = {servers}
workers = {workers}
wait_seconds = 60
heartbeat_seconds = 0.2
lease_seconds = 3.0
[worker]
threads = 1
"""

RESULT_KEYS = {
    "test_accuracy",
    "test_loss",
    "samples_applied",
    "samples_per_second",
    "seconds",
    "pushes_applied",
    "pushes_refused",
    "bytes_pushed",
    "bytes_pulled",
    "staleness_max",
    "lag_max",
    "workers",
    "servers",
}


@pytest.fixture
def psedge(tmp_path: Path) -> Iterator[Processes]:
    with processes_in(tmp_path) as starter:
        yield starter


def write_config(
    psedge: Processes, *, length: float = 3, servers: int = 1, workers: int = 1
) -> Path:
    path = psedge.folder / "digits.toml"
    path.write_text(CONFIG.format(length=length, servers=servers, workers=workers))
    return path


def status(psedge: Processes, url: str) -> dict[str, Any]:
    process = psedge("status", "--join", url, "--json")
    assert process.exit_code() in (0, 1), process.output()
    return json.loads(process.output())  # type: ignore[no-any-return]


def start_server(psedge: Processes, *arguments: object) -> tuple[Any, str]:
    server = psedge("server", *arguments, "--port", 0)
    return server, server.expect(r"psedge server ready at (http://\S+)")[1]


def test_a_run_from_start_to_model_file(psedge: Processes) -> None:
    config = write_config(psedge, servers=2, workers=2, length=6)
    run = psedge("run", config, "--out", "run")
    assert run.exit_code() == 0, run.output()
    folder = psedge.folder / "run"
    result = json.loads((folder / "result.json").read_text())
    assert result.keys() >= RESULT_KEYS
    assert result["samples_applied"] == 6 * 640
    assert result["test_accuracy"] > 0.8
    assert (result["workers"], result["servers"]) == (2, 2)
    assert (folder / "learning-curve.png").stat().st_size > 10_000
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    measured = psedge("eval", "run", "--json")
    assert measured.exit_code() == 0, measured.output()
    assert json.loads(measured.output())["accuracy"] == pytest.approx(result["test_accuracy"])
    exported = psedge("export", "run", "-o", "model.pt")
    assert exported.exit_code() == 0, exported.output()
    import torch

    from psedge.worker.models.table import MODELS

    state = torch.load(psedge.folder / "model.pt", weights_only=True)
    MODELS["digits-cnn"]().load_state_dict(state)


def test_ctrl_c_stops_in_order_and_resume_goes_on_where_it_was(psedge: Processes) -> None:
    config = write_config(psedge, length=200)
    run = psedge("run", config, "--out", "run")
    run.expect(r"epoch [3-9]/200")
    run.send(signal.SIGINT)
    assert run.exit_code() == 0, run.output()
    folder = psedge.folder / "run"
    stopped = json.loads((folder / "result.json").read_text())
    assert stopped["phase"] == "stopped"
    reached = stopped["samples_seen"]
    again = psedge("run", config, "--out", "run", "--resume", "--set", "schedule.length=12")
    assert again.exit_code() == 0, again.output()
    resumed = json.loads((folder / "result.json").read_text())
    assert resumed["phase"] == "finished"
    assert resumed["resumed_from_samples"] == reached
    assert resumed["samples_seen"] == max(12 * 640, reached)


def test_a_killed_worker_holds_nobody_back_and_its_samples_are_visited(psedge: Processes) -> None:
    server, url = start_server(psedge, write_config(psedge, length=30, workers=2), "--out", "run")
    workers = [psedge("worker", "--join", url, "--name", name) for name in ("pi", "nano")]
    workers[0].expect("pi trains on")
    until(lambda: status(psedge, url)["samples"] > 1000, "training starts")
    workers[0].send(signal.SIGKILL)
    assert workers[1].exit_code() == 0, workers[1].output()
    assert server.exit_code() == 0, server.output()
    server.expect("worker pi is silent for 3 s and taken for dead")
    result = json.loads((psedge.folder / "run" / "result.json").read_text())
    assert result["phase"] == "finished"
    assert result["samples_seen"] == 30 * 640
    assert {row["state"] for row in result["worker_rows"]} == {"dead", "left"}


def test_a_worker_that_is_killed_and_started_again_at_once_is_the_same_one(
    psedge: Processes,
) -> None:
    """Among others of its name, and long before its silence tells anything."""
    config = write_config(psedge, length=12, workers=2)
    server, url = start_server(psedge, config, "--out", "run", "--set", "cluster.lease_seconds=600")
    join = ("worker", "--join", url, "--name", "pi")
    workers = [psedge(*join), psedge(*join)]
    names = [worker.expect(r"(pi\S*) trains on")[1] for worker in workers]
    assert set(names) == {"pi", "pi-2"}
    metrics = psedge.folder / "run" / "metrics.jsonl"
    until(lambda: re.search(r'"samples":[1-9]', metrics.read_text()), "training is under way")
    workers[0].send(signal.SIGKILL)
    workers[0] = psedge(*join)
    assert workers[0].expect(r"(pi\S*) trains on")[1] == names[0]
    assert [worker.exit_code() for worker in workers] == [0, 0], workers[0].output()
    assert server.exit_code() == 0, server.output()
    result = json.loads((psedge.folder / "run" / "result.json").read_text())
    assert result["samples_seen"] == 12 * 640
    assert [(row["name"], row["state"]) for row in result["worker_rows"]] == [
        ("pi", "left"), ("pi-2", "left"),
    ]  # fmt: skip


def test_a_worker_may_come_before_the_server_and_leave_in_the_middle(psedge: Processes) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    early = psedge("worker", "--join", url, "--name", "early")
    early.expect("Connection refused; trying again")
    server = psedge("server", write_config(psedge, length=40), "--port", port, "--out", "run")
    early.expect("early trains on")
    late = psedge("worker", "--join", url, "--name", "late")
    late.expect("late trains on")
    early.send(signal.SIGTERM)
    assert early.exit_code() == 0, early.output()
    assert late.exit_code() == 0, late.output()
    assert server.exit_code() == 0, server.output()
    result = json.loads((psedge.folder / "run" / "result.json").read_text())
    assert result["samples_seen"] == 40 * 640


def test_a_supervisor_that_was_killed_comes_back_to_its_servers_and_workers(
    psedge: Processes,
) -> None:
    config = write_config(psedge, servers=2, length=30)
    server, url = start_server(psedge, config, "--out", "run")
    further = psedge("server", "--join", url, "--port", 0)
    worker = psedge("worker", "--join", url, "--name", "pi")
    checkpoints = psedge.folder / "run" / "checkpoints"
    until(lambda: any(checkpoints.glob("*[1-9]*/checkpoint.json")), "a checkpoint of some work")
    server.send(signal.SIGKILL)
    server.exit_code()
    again = psedge("server", "--port", url.rpartition(":")[2], "--out", "run", "--resume")
    assert again.exit_code() == 0, again.output()
    assert further.exit_code() == 0, further.output()
    assert worker.exit_code() == 0, worker.output()
    result = json.loads((psedge.folder / "run" / "result.json").read_text())
    assert result["phase"] == "finished"
    # The further server has a copy of everything, so nothing is visited twice.
    assert "looking for its servers" in again.output()
    assert result["samples_seen"] == 30 * 640
    assert result["resumed_from_samples"] is None
    for process in (again, further, worker):
        assert "Traceback" not in process.output()


def test_something_else_at_the_address_is_one_line_for_everybody(psedge: Processes) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        processes = [psedge("status", "--join", url), psedge("server", "--join", url, "--port", 0)]
        callers = [other.accept()[0] for _ in processes]
        for caller in callers:
            caller.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
        for process, caller in zip(processes, callers, strict=True):
            assert process.exit_code() == 2, process.output()
            caller.close()
            last = process.output().splitlines()[-1]
            assert last.startswith(f"error: something answers at {url}, but not as psedge does")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_further_server_is_small_and_knows_no_torch(psedge: Processes) -> None:
    first, url = start_server(psedge, write_config(psedge, servers=2))
    further = psedge("server", "--join", url, "--port", 0)
    first.expect("server 1 at .* joined")
    process = Path(f"/proc/{further.pid}")
    assert "torch" not in (process / "maps").read_text()
    resident = next(
        int(line.split()[1])
        for line in (process / "status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    assert resident < 80_000, "kB at rest"
    first.send(signal.SIGINT)
    assert first.exit_code() == 0, first.output()
    assert further.exit_code() == 0, further.output()


def test_off_loopback_every_request_needs_the_token(psedge: Processes) -> None:
    server, url = start_server(psedge, write_config(psedge), "--host", "0.0.0.0")
    token = server.expect(r"psedge worker --join http://([\w-]+)@")[1]
    saved = psedge.folder / "home" / ".config" / "psedge" / "token"
    assert saved.read_text().strip() == token
    assert saved.stat().st_mode & 0o077 == 0
    stranger = psedge("status", "--join", url.replace("http://", "http://not-the-token@"))
    assert stranger.exit_code() == 2
    assert "token" in stranger.output()
    friend = psedge("status", "--join", url.replace("http://", f"http://{token}@"))
    assert friend.exit_code() == 0, friend.output()


def test_a_port_that_is_taken_is_one_line(psedge: Processes) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = psedge("server", write_config(psedge), "--port", port)
        assert server.exit_code() == 2
    assert str(port) in server.output()
    assert "Traceback" not in server.output()


def test_a_worker_imports_nothing_that_its_operator_did_not_allow(psedge: Processes) -> None:
    make = "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    (psedge.folder / "trojan.py").write_text(f"print('imported')\nfrom torch import nn\n{make}")
    config = write_config(psedge)
    config.write_text(config.read_text().replace("digits-cnn", "trojan:net"))
    _, url = start_server(psedge, config)
    worker = psedge("worker", "--join", url)
    assert worker.exit_code() == 2
    assert "--allow trojan" in worker.output()
    assert "imported" not in worker.output()


def test_missing_data_ends_the_run_with_one_clear_message(psedge: Processes) -> None:
    config = write_config(psedge)
    config.write_text(config.read_text().replace('"digits"', '"cifar10"'))
    run = psedge("run", config, "--out", "run", "--data", "nowhere")
    assert run.exit_code() == 2
    assert "CIFAR-10 is not in nowhere" in run.output()
    assert "Traceback" not in run.output()
