"""The command line: what it passes on, what it refuses, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psedge.cli import exit_code
from psedge.orders import ServerOrder
from psedge.protocol.errors import ConfigError, TrainingError
from psedge.protocol.version import __version__
from psedge.toml_config import load_config

ROOT = Path(__file__).parent.parent


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Replaces a function that a command calls; returns the dict its arguments are put in."""

    def replace(module: str, function: str, result: Any = 0) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def record(*positional: Any, **named: Any) -> Any:
            seen.update(named, positional=positional)
            if isinstance(result, BaseException):
                raise result
            return result

        fake = types.ModuleType(module)
        setattr(fake, function, record)
        monkeypatch.setitem(sys.modules, module, fake)
        return seen

    return replace


@pytest.mark.parametrize("command", ["run", "server", "worker", "status", "eval", "export"])
def test_every_command_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"psedge {command}" in text
    assert "Example" in text
    assert "with-parent" not in text


@pytest.mark.parametrize("command", ["run", "server", "simulate"])
def test_examples_with_shipped_configs_are_right(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line.split() for line in lines if f"psedge {command} configs/" in line]
    assert words
    for _, _, config, *rest in words:
        overrides = [rest[at + 1] for at, word in enumerate(rest) if word == "--set"]
        load_config(ROOT / config, overrides)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--version"]) == 0
    assert capsys.readouterr().out == f"psedge {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["walk"],
        ["worker"],
        ["worker", "--join", "http://h", "--device", "abacus"],
        ["worker", "--join", "http://h", "--pace", "0.5"],
        ["server", "--port", "65536"],
        ["export", "runs/a"],
    ],
)
def test_a_wrong_command_line_is_the_users_mistake(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(arguments) == 2
    captured = capsys.readouterr()
    assert "Usage: psedge" in captured.err
    assert captured.out == ""


def test_a_server_that_joins_takes_no_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["server", "configs/a.toml", "--join", "http://pc:7700"]) == 2
    assert capsys.readouterr().err.startswith("error: CONFIG belongs to the first server")
    assert exit_code(["server", "--resume", "--join", "http://pc:7700"]) == 2
    assert capsys.readouterr().err.startswith("error: --resume belongs to the first server")


@pytest.mark.parametrize("command", ["run", "server"])
def test_a_new_run_has_no_checkpoint(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([command, "c.toml", "--from-checkpoint"]) == 2
    assert "--from-checkpoint says how to --resume a run" in capsys.readouterr().err


def test_server_passes_everything_on(stand_in: Callable[..., dict[str, Any]]) -> None:
    seen = stand_in("psedge.serve", "run_server", 0)
    line = "server c.toml --set a.b=1 --set c=2 --host 0.0.0.0 --port 0 --out o --data d --store s"
    assert exit_code([*line.split(), "--resume", "--from-checkpoint", "--with-parent"]) == 0
    assert seen == {
        "positional": (
            ServerOrder(
                config=Path("c.toml"),
                overrides=("a.b=1", "c=2"),
                host="0.0.0.0",
                port=0,
                out=Path("o"),
                resume=True,
                store=Path("s"),
                data=Path("d"),
                with_parent=True,
                from_checkpoint=True,
            ),
        ),
    }


def test_worker_passes_everything_on(stand_in: Callable[..., dict[str, Any]]) -> None:
    seen = stand_in("psedge.work", "run_worker", 1)
    assert exit_code(["worker", "--join", "pc", "--allow", "mine", "--pace", "3"]) == 1
    assert seen == {
        "positional": (),
        "join": "pc",
        "device": "auto",
        "name": "",
        "data": Path("data"),
        "allow": ("mine",),
        "pace": 3.0,
        "with_parent": False,
    }


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("c.toml: no such file"), 2, "error: c.toml: no such file\n"),
        (TrainingError("the loss is NaN"), 1, "error: the loss is NaN\n"),
        (PermissionError(13, "Permission denied", "runs"), 1, "Permission denied"),
        (KeyboardInterrupt(), 1, "stopped by Ctrl-C"),
    ],
)
def test_errors_are_one_line(
    stand_in: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    stand_in("psedge.work", "run_worker", error)
    assert exit_code(["worker", "--join", "pc"]) == code
    captured = capsys.readouterr().err.strip("\n")
    assert text.strip("\n") in captured
    assert "\n" not in captured


def test_a_programming_error_is_not_hidden(stand_in: Callable[..., dict[str, Any]]) -> None:
    stand_in("psedge.work", "run_worker", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        exit_code(["worker", "--join", "pc"])


def test_help_and_joining_servers_import_neither_torch_nor_plots() -> None:
    code = (
        "import sys, json\n"
        "from psedge.cli import exit_code\n"
        "assert exit_code(['server', '--help']) == 0\n"
        "heavy = {'torch', 'matplotlib', 'aiohttp', 'rich', 'sklearn', 'numpy'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_python_dash_m_is_the_same_command() -> None:
    command = [sys.executable, "-m", "psedge", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"psedge {__version__}\n"
