"""`psedge run` without its processes: what it starts, how it looks on, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from launch_rig import EXPERIMENT, FakeChild, World, training
from rich.console import Console

from psedge.child import Child
from psedge.child_commands import thread_environment
from psedge.config import ClusterConfig, Experiment
from psedge.own_packages import packages_of
from psedge.protocol.errors import (
    ConfigError,
    PsedgeError,
    TrainingError,
    UserError,
)
from psedge.protocol.status import Status, WorkerStatus
from psedge.run_folder import choose_folder, make_folder
from psedge.server.config import OptimizerConfig
from psedge.terminal import conclusion
from psedge.worker.config import DataConfig, ModelConfig


def test_it_starts_what_the_config_says_and_ends_with_the_run() -> None:
    def script(world: World, look: int) -> Status:
        if look < 5:
            return training(look)
        world.children["server-0"].exit_code = 0
        return Status(run="small", phase="finished")

    world = World(script)
    assert world.run().phase == "finished"
    arguments = {name: " ".join(child.arguments) for name, child in world.children.items()}
    url = "http://127.0.0.1:45678"
    data = "--device auto --data d"
    assert arguments == {
        "server-0": "server c.toml --port 0 --data d --out out --set a.b=1 --with-parent",
        "server-1": f"server --join {url} --port 0 --store out/servers/1 --with-parent",
        "worker-1": f"worker --join {url} --name worker-1 {data} --pace 1.0 --allow mine "
        "--with-parent",
        "worker-2": f"worker --join {url} --name worker-2 {data} --pace 3.0 --allow mine "
        "--with-parent",
    }
    assert world.children["worker-2"].log == Path("out/logs/worker-2.log")
    assert [status.samples for status in world.shown if status.phase == "training"] == [1, 2, 3, 4]
    assert not any(child.running or child.killed for child in world.children.values())


def test_a_server_that_cannot_start_says_why_and_whose_mistake_it_was() -> None:
    for code, kind in ((2, UserError), (1, TrainingError), (-11, TrainingError)):
        world = World(lambda world, look: training())
        spawn = world.spawn

        def spawn_broken(name: str, *rest: Any, spawn: Any = spawn, code: int = code) -> FakeChild:
            child = spawn(name, *rest)
            child.text, child.exit_code = "", code
            return child

        world.launch._spawn = spawn_broken  # type: ignore[assignment]
        with pytest.raises(kind, match=r"^server-0: last words of server-0$"):
            world.run()
        assert list(world.children) == ["server-0"]


def test_one_lost_worker_is_noted_and_the_run_goes_on() -> None:
    def script(world: World, look: int) -> Status:
        if look == 2:
            world.children["worker-1"].exit_code = 1
            world.children["worker-1"].words = "its log ends with:\n    Trace\n    KeyError: 3"
        if look < 6:
            return training(look)
        world.children["server-0"].exit_code = 0
        return Status(run="small", phase="finished")

    world = World(script)
    assert world.run().phase == "finished"
    notes = [note for status in world.shown for note in status.notes]
    assert set(notes) == {"worker-1: KeyError: 3 (see out/logs/worker-1.log)"}
    assert max(len(status.notes) for status in world.shown) == 1


def test_without_any_worker_the_run_ends_with_the_workers_error() -> None:
    def script(world: World, look: int) -> Status:
        world.children["worker-1"].exit_code = 2
        world.children["worker-2"].exit_code = 2
        return Status(run="small", phase="waiting")

    world = World(script)
    with pytest.raises(UserError, match=r"^worker-1: last words"):
        world.run()
    assert world.failures == ["worker-1: last words of worker-1"], "the run folder says the same"
    assert world.stops == []


def test_workers_of_other_machines_keep_the_run_alive() -> None:
    def script(world: World, look: int) -> Status:
        world.children["worker-1"].exit_code = 1
        world.children["worker-2"].exit_code = 1
        if look < 4:
            return training(look, workers=(WorkerStatus("pi", "alive"),))
        world.children["server-0"].exit_code = 0
        return Status(run="small", phase="finished")

    assert World(script).run().phase == "finished"


def test_a_further_server_that_cannot_start_ends_a_waiting_run() -> None:
    def script(world: World, look: int) -> Status:
        world.children["server-1"].exit_code = 1
        return Status(run="small", phase="waiting")

    with pytest.raises(TrainingError, match=r"^server-1: last words"):
        World(script).run()


def test_a_killed_child_is_noted_by_its_signal_and_not_by_its_log() -> None:
    def script(world: World, look: int) -> Status:
        world.children["worker-1"].exit_code = -9
        world.children["worker-1"].words = "ended by SIGKILL; it ends with:\n    all was well"
        if look < 3:
            return training(look)
        world.children["server-0"].exit_code = 0
        return Status(run="small", phase="finished")

    world = World(script)
    world.run()
    notes = {note for status in world.shown for note in status.notes}
    assert notes == {"worker-1: ended by SIGKILL (see out/logs/worker-1.log)"}


def test_an_interrupt_that_meets_a_run_at_its_end_is_no_failure() -> None:
    def script(world: World, look: int) -> Status:
        if look == 2:
            # It had closed its door already, and the signal met it on its way out.
            world.launch.interrupt()
            world.children["server-0"].exit_code = -15
        return training(look)

    assert World(script).run().phase == "training"


def test_the_first_interrupt_stops_in_order() -> None:
    def script(world: World, look: int) -> Status:
        if look == 2:
            world.launch.interrupt()
        if not world.stops:
            return training(look)
        world.children["server-0"].exit_code = 0
        return Status(run="small", phase="stopped")

    world = World(script)
    assert world.run().phase == "stopped"
    assert world.stops == ["stopped by Ctrl-C"]
    assert not any(child.killed for child in world.children.values())
    assert any("Ctrl-C again" in note for status in world.shown for note in status.notes)
    assert world.shown[-1].phase == "stopped"
    assert world.shown[-1].notes == ()


def test_the_second_interrupt_ends_everything_at_once() -> None:
    def script(world: World, look: int) -> Status:
        if look > 1:
            world.launch.interrupt()
        return training(look)

    world = World(script)
    with pytest.raises(TrainingError, match="--resume"):
        world.run()
    assert all(child.killed for child in world.children.values())
    assert world.looks == 3


def test_a_supervisor_that_does_not_go_away_is_sent_away() -> None:
    world = World(lambda world, look: Status(run="small", phase="finished"))
    assert world.run().phase == "finished"
    assert world.seconds > 60
    assert not world.children["server-0"].running


def test_the_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    crowd = Experiment(cluster=ClusterConfig(workers=64))
    assert thread_environment(EXPERIMENT) == {"OMP_NUM_THREADS": "4"}
    assert thread_environment(crowd) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert thread_environment(EXPERIMENT) == {}


def test_a_run_allows_what_its_own_config_names() -> None:
    experiment = Experiment(
        model=ModelConfig("mine.nets:net", loss="losses:huber", metrics=("accuracy", "mine:top5")),
        data=DataConfig("torchvision.datasets:MNIST"),
        optimizer=OptimizerConfig(factory="psedge_extras:make"),
    )
    assert packages_of(experiment) == ("psedge_extras", "mine", "losses")
    assert packages_of(Experiment(data=DataConfig("torchvision:MNIST"))) == ()


def test_a_run_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot make the run folder .*file.*--out"):
        make_folder(tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match=r"cannot make the run folder"):
        make_folder(tmp_path / "file")


def test_run_folders(tmp_path: Path) -> None:
    moment = 1_769_860_800.0
    first = choose_folder("my run/é", None, False, moment, tmp_path)
    assert first.name.startswith("my-run-2026")
    first.mkdir()
    second = choose_folder("my run/é", None, False, moment, tmp_path)
    assert second.name == f"{first.name}-2"
    second.mkdir()
    (tmp_path / "my-run-other-20260131-120000").mkdir()
    assert choose_folder("my run/é", None, True, moment, tmp_path) == second
    with pytest.raises(ConfigError, match="no run of 'other'"):
        choose_folder("other", None, True, moment, tmp_path)
    with pytest.raises(ConfigError, match="no run to resume"):
        choose_folder("other", tmp_path / "missing", True, moment, tmp_path)
    assert choose_folder("other", first, False, moment, tmp_path) == first
    (first / "metrics.jsonl").touch()
    with pytest.raises(ConfigError, match="holds a run already"):
        choose_folder("other", first, False, moment, tmp_path)
    assert choose_folder("other", first, True, moment, tmp_path) == first


def child(tmp_path: Path, *arguments: str) -> Child:
    return Child("it", arguments, tmp_path / "logs" / "it.log", {})


def test_a_child_writes_its_log_and_ends(tmp_path: Path) -> None:
    process = child(tmp_path, "--version")
    process.close(60)
    assert process.exit_code == 0
    assert process.output().startswith("psedge ")
    again = child(tmp_path, "--help")
    again.close(60)
    assert again.output().startswith("Usage: "), "only what this process wrote"


def test_a_childs_last_words_are_its_error(tmp_path: Path) -> None:
    process = child(tmp_path, "server", "a.toml", "--join", "http://127.0.0.1:1")
    process.close(60)
    assert process.exit_code == 2
    assert process.last_words().startswith("CONFIG belongs to the first server")
    usage = child(tmp_path, "worker")
    usage.close(60)
    assert "with exit code 2" in usage.last_words()
    assert "Missing option '--join'" in usage.last_words()


def test_a_child_can_be_killed(tmp_path: Path) -> None:
    process = child(tmp_path, "--version")
    process.kill()
    process.close(60)
    assert process.exit_code in (-9, 0)
    process.kill()


def test_an_older_result_is_not_this_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conclusion, "_plot", lambda folder, console: None)
    result = tmp_path / "result.json"
    status = Status(run="small", phase="finished")
    console = Console(quiet=True)
    with pytest.raises(PsedgeError, match=r"server-0\.log"):
        conclusion.conclude(status, tmp_path, console, started=0.0)
    for phase, code in (("finished", 0), ("stopped", 0), ("failed", 1)):
        result.write_text(json.dumps({"phase": phase}))
        assert conclusion.conclude(status, tmp_path, console, started=0.0) == code
    later = result.stat().st_mtime + 60
    with pytest.raises(PsedgeError, match="without a result"):
        conclusion.conclude(status, tmp_path, console, started=later)
