"""`psedge simulate`: what it refuses, what it prints and writes, and how it ends."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import simulated
from PIL import Image
from rich.console import Console

from psedge.cli import exit_code
from psedge.protocol.errors import ConfigError
from psedge.simulation.command import SimulateOrder, parse_seeds, parse_time, run_simulate
from psedge.supervisor.run_rows import Result

CONFIG = """
name = "kitchen"
[model]
factory = "digits-cnn"
[data]
dataset = "digits"
[[cluster.devices]]
profile = "raspberry-pi-4b"
name = "pi"
count = 2
[[cluster.devices]]
profile = "jetson-nano"
name = "nano"
count = 2
"""
PLAN = """
[[fault]]
kind = "slow"
on = "nano-1"
factor = 3.0
at = 20
seconds = 10
[[fault]]
kind = "crash"
on = "pi-2"
at = 100
restart_after = 20
[[fault]]
kind = "reset"
on = "pi-1"
at = 150
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(PLAN)
    path = Path("kitchen.toml")
    path.write_text(CONFIG)
    return path


def run(config: Path, prepare: Any = simulated.prepare, **asked: Any) -> tuple[int, str]:
    console = Console(width=100, file=io.StringIO(), force_terminal=False)
    code = run_simulate(SimulateOrder(config, **asked), console, prepare)
    file = console.file
    assert isinstance(file, io.StringIO)
    return code, file.getvalue()


def test_one_run_is_told_from_beginning_to_end(config: Path) -> None:
    code, text = run(config, seed=2)
    assert code == 0
    for said in (
        "nano-1, nano-2, pi-1, pi-2  joined",
        "training begins",
        "kitchen  seed 2  finished after 5:00 of virtual time",
        "91.4 %",
        "120,000 samples, 412 samples/s",
        "accuracy reached",
        "raspberry-pi-4b × 2: computing",
        "all held",
    ):
        assert said in text


def test_json_has_the_keys_of_a_result_and_those_of_a_simulation(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run(config, seed=3, faults=Path("plan.toml"), as_json=True)
    assert code == 1
    figures = json.loads(capsys.readouterr().out)
    assert set(Result.__struct_fields__) < set(figures)
    assert figures["seed"] == 3
    assert figures["virtual_seconds"] == 300.0
    assert figures["faults"] == ["pi-2: crash"]
    assert figures["violations"] == [
        {"at": 100.25, "invariant": 4, "node": "pi-2", "text": "ran 5 steps ahead"}
    ]
    assert text == ""
    assert sorted(path.name for path in Path().iterdir()) == ["kitchen.toml", "plan.toml"]


def test_a_violation_comes_with_a_replay_and_the_faults_that_matter(config: Path) -> None:
    code, text = run(
        config, seed=3, faults=Path("plan.toml"), overrides=("sync.mode=asp",), until="2h"
    )
    assert code == 1
    plan = Path("kitchen-seed-3-faults.toml")
    said = " ".join(text.split())
    rest = "--set sync.mode=asp --until 2h"
    assert f"psedge simulate kitchen.toml --seed 3 --faults plan.toml {rest}" in said
    assert f"psedge simulate kitchen.toml --seed 3 --faults {plan} {rest}" in said
    assert f"{plan} (1 of 3)" in said
    assert "4 at 1:40.2, pi-2: ran 5 steps ahead" in said
    shrunk = plan.read_text()
    assert shrunk.count("[[fault]]") == 1
    assert 'on = "pi-2"' in shrunk
    # The shrunk plan is one that the command reads, and it breaks the same invariant.
    again, _ = run(config, seed=3, faults=plan)
    assert again == 1


def test_out_keeps_the_run_folder_the_figures_the_timeline_and_a_picture(config: Path) -> None:
    code, text = run(config, seed=2, out=Path("kept"))
    assert code == 0
    assert Path("kept/checkpoints/1/model.safetensors").read_bytes() == b"tensors"
    assert json.loads(Path("kept/simulation.json").read_bytes())["seed"] == 2
    assert "training begins" in Path("kept/timeline.txt").read_text()
    assert Image.open("kept/simulation.png").format == "PNG"
    assert "kept/simulation.png" in text
    with pytest.raises(ConfigError, match="holds a run already"):
        run(config, seed=2, out=Path("kept"))


def test_plot_writes_a_png(config: Path) -> None:
    run(config, plot=Path("lanes.png"))
    assert Image.open("lanes.png").format == "PNG"


def test_a_range_sums_up_and_ends_with_1_when_a_seed_fails(config: Path) -> None:
    code, text = run(config, seeds="2:6", faults=Path("plan.toml"))
    said = " ".join(text.split())
    assert code == 1
    assert "kitchen 4 seeds 2 seeds failed" in said
    assert "4 finished" in said
    assert "seed 3: invariant 4 at 1:40.2 on pi-2: ran 5 steps ahead" in said
    assert "psedge simulate kitchen.toml --seed 3 --faults kitchen-seed-3-faults.toml" in said
    assert "psedge simulate kitchen.toml --seed 5 --faults plan.toml" in said
    code, text = run(config, seeds="2:6")
    assert code == 0
    assert "every invariant held" in text


def test_a_range_as_json_is_one_array_in_order(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = run(config, seeds="2:7", as_json=True)
    assert code == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["seed"] for row in rows] == [2, 3, 4, 5, 6]
    assert all(row["violations"] == [] for row in rows)


def test_what_a_process_refuses_is_the_users_mistake(config: Path) -> None:
    with pytest.raises(ConfigError, match="100 workers would take 900 GB"):
        run(config, simulated.prepare_refusal, seeds="0:4")


def test_ctrl_c_says_what_the_run_came_to_so_far(config: Path) -> None:
    code, text = run(config, simulated.prepare_patient)
    assert code == 1
    assert "stopping within a virtual second" in text
    assert "kitchen  seed 0  cut after 5:00 of virtual time" in text
    assert "stopped by Ctrl-C" in text


def test_a_second_ctrl_c_ends_at_once(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(config, simulated.prepare_impatient)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5", "expected A:B"),
        ("a:b", "expected A:B"),
        ("-1:4", "expected A:B"),
        ("1.5:4", "expected A:B"),
        ("7:7", "seed 7 alone is --seed 7"),
        ("9:3", "did you mean 3:9?"),
        ("0:99999999999", "more than the 10,000,000"),
    ],
)
def test_a_range_that_makes_no_sense_is_one_clear_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_seeds(text)
    assert str(caught.value).startswith(f"--seeds {text}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ranges_end_before_their_second_number() -> None:
    assert list(parse_seeds("3:6")) == [3, 4, 5]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("15m", 900), ("2h", 7200), ("1d", 86_400)]
)
def test_virtual_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["0", "-5", "soon", "2 weeks", "1e9", ""])
def test_virtual_times_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="such as 90s, 15m, 2h or 1d"):
        parse_time(text)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--seed 1 --seeds 0:4", "say one of them"),
        ("--seeds 0:4 --plot a.png", "--plot draws one run"),
        ("--plot a.jpg", "must end in .png"),
        ("--plot nowhere/a.png", "there is no folder nowhere"),
        ("--faults plam.toml", "did you mean plan.toml"),
        ("--faults wrong.toml", 'no host or role "pi-3"; did you mean "pi-2"?'),
        ("--faults typo.toml", 'there is no kind "crush"; did you mean "crash"?'),
        ("--set cluster.server_profile=rasberry-pi-4b", 'did you mean "raspberry-pi-4b"?'),
        ("--set cluster.server_link=gb", 'did you mean "gbe"?'),
        ("--until soon", "--until soon: expected a virtual time"),
        ("--set cluster.servers=2 --set model.factory=digits-cn", "digits-cnn"),
        ("--set cluster.devices=[]  --set cluster.workers=10000000", "GB"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    config: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    Path("wrong.toml").write_text(PLAN.replace("pi-2", "pi-3"))
    Path("typo.toml").write_text(PLAN.replace('"crash"', '"crush"'))
    assert exit_code(["simulate", str(config), *line.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    message = captured.err.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    assert said in message


def test_a_schedule_by_chance_needs_no_plan(config: Path) -> None:
    seen: list[Any] = []

    def prepare(order: Any, notify: Any) -> Any:
        seen.append(order)
        return simulated.simulate

    run(config, prepare, faults=Path("random"))
    assert seen[0].plan.random is not None


def test_the_real_thing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["simulate", str(config), "--until", "4s", "--plot", "lanes.png"]
    assert exit_code([*line, "--set", "data.batch_size=256"]) == 0
    assert "all held" in capsys.readouterr().out
    assert Image.open("lanes.png").format == "PNG"


def test_a_config_without_a_model_cannot_be_simulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bare.toml"
    path.write_text("[cluster]\nworkers = 2\n")
    assert exit_code(["simulate", str(path)]) == 2
    assert "a simulation needs the sections [model] and [data]" in capsys.readouterr().err
