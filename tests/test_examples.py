"""The programs in `examples/`, run as their docstrings say, only shorter."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Process, Processes, processes_in

REPOSITORY = Path(__file__).parent.parent

#: Images in scikit-learn's digits.
DIGITS = 1797


@pytest.fixture
def psedge(tmp_path: Path) -> Iterator[Processes]:
    """Starts processes in a folder that holds `examples`, as a clone does, and takes their runs."""
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    with processes_in(tmp_path) as starter:
        yield starter


def library_server(psedge: Processes, workers: int) -> tuple[Process, str]:
    """A server without a config; nobody takes a step before all `workers` programs are there."""
    together = ("--set", f"cluster.workers={workers}", "--set", "cluster.wait_seconds=60")
    server = psedge("server", "--port", 0, "--out", "run", *together)
    return server, server.expect(r"psedge\.connect\(\"(http://\S+)\", model\)")[1]


def result(psedge: Processes) -> dict[str, Any]:
    return json.loads((psedge.folder / "run" / "result.json").read_text())  # type: ignore[no-any-return]


def stopped(server: Process) -> None:
    server.send(signal.SIGINT)
    assert server.exit_code() == 0, server.output()


def test_three_lines_make_a_loop_distributed(psedge: Processes) -> None:
    server, url = library_server(psedge, workers=2)
    program = "import examples.three_lines as it; it.EPOCHS = 2; it.main()"
    loops = [psedge.python("-c", program, url, name=f"loop-{number}") for number in (1, 2)]
    for loop in loops:
        assert loop.exit_code() == 0, loop.output()
        accuracy = float(loop.expect(r"accuracy on the training data: ([\d.]+)%")[1])
        assert accuracy > 85, loop.output()
    stopped(server)
    assert result(psedge)["samples_applied"] == len(loops) * 2 * DIGITS
    assert result(psedge)["workers"] == len(loops)


def test_a_loop_in_asyncio(psedge: Processes) -> None:
    server, url = library_server(psedge, workers=1)
    loop = psedge.python("examples/asyncio_loop.py", url, name="loop")
    assert loop.exit_code() == 0, loop.output()
    assert float(loop.expect(r"step 200: loss ([\d.]+)")[1]) < 0.1
    stopped(server)
    assert result(psedge)["samples_applied"] == 200 * 32


def test_a_run_from_python(psedge: Processes) -> None:
    program = "import examples.run_from_python as it; it.EPOCHS = 2; it.main()"
    run = psedge.python("-c", program, name="run")
    assert run.exit_code() == 0, run.output()
    assert 0 < float(run.expect(r"test accuracy ([\d.]+)% after 4,000 samples")[1]) <= 100
    assert "psedge eval" not in run.output(), "no config names these objects"


def test_the_custom_model(psedge: Processes) -> None:
    short = ("schedule.length=1", "schedule.warmup=0.1", "data.arguments.samples=640")
    flags = [word for value in short for word in ("--set", value)]
    run = psedge("run", "configs/custom-model.toml", "--out", "run", *flags)
    assert run.exit_code() == 0, run.output()
    assert result(psedge)["samples_applied"] == 640
    assert 0 < result(psedge)["test_metrics"]["examples.custom_model:alarm_accuracy"] <= 1
