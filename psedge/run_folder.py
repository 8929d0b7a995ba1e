"""Which folder a run writes to: a new one named after it, or the one that it continues."""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path

from psedge.protocol.errors import ConfigError

RUNS = Path("runs")
_RECORDS = ("config.toml", "metrics.jsonl", "result.json", "checkpoints", "supervisor.sqlite")
#: Below a run folder: what the run's servers on this machine keep of their logs.
SERVERS = "servers"


def choose_folder(
    name: str, out: Path | None, resume: bool, timestamp: float, runs: Path = RUNS
) -> Path:
    """The run folder for an experiment called `name`; it is not made yet.

    out: the user's choice; None takes `runs/<name>-<date>-<time>`, or the latest of that name to
    resume. timestamp: seconds since 1970.

    Raises ConfigError when the folder holds another run, or when there is nothing to resume.
    """
    if resume and out is None:
        return _latest(name, runs)
    if resume and out is not None:
        if not out.is_dir():
            raise ConfigError(f"there is no run to resume at {out}")
        return out
    if out is not None:
        if any((out / record).exists() for record in _RECORDS):
            raise ConfigError(
                f"{out} holds a run already: continue it with --resume, or name another with --out"
            )
        return out
    moment = datetime.fromtimestamp(timestamp).strftime("%Y%m%d-%H%M%S")
    folder = runs / f"{_file_name(name)}-{moment}"
    number = 2
    while folder.exists():
        folder = runs / f"{_file_name(name)}-{moment}-{number}"
        number += 1
    return folder


def config_to_resume(config: Path | None, out: Path | None, resume: bool) -> Path | None:
    """The config to serve: the one named, else that of the run that `out` continues.

    Raises ConfigError where such a run has not kept any yet.
    """
    if config is not None or not resume or out is None:
        return config
    kept = out / "config.toml"
    if out.is_dir() and not kept.is_file():
        raise ConfigError(
            f"{out} holds no config yet, for its training had not begun: name the config too"
        )
    return kept if kept.is_file() else None


def server_folder(run_folder: Path, server: int) -> Path:
    """Where a server that belongs to the run folder's machine keeps its logs."""
    return run_folder / SERVERS / str(server)


def make_folder(folder: Path) -> None:
    """Make the run folder, if it is not there. Raises ConfigError if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the run folder {folder}: {error.strerror or error}; name another "
            "with --out"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"the run folder {folder} cannot be written to by you; name another with --out"
        )


def _latest(name: str, runs: Path) -> Path:
    pattern = re.compile(re.escape(_file_name(name)) + r"-\d{8}-\d{6}(-\d+)?")
    found = [folder for folder in runs.glob("*") if pattern.fullmatch(folder.name)]
    if not found:
        raise ConfigError(f"{runs} holds no run of {name!r} to resume: name its folder with --out")
    return max(found, key=lambda folder: folder.name)


def _file_name(name: str) -> str:
    """The experiment's name with nothing in it that a file system or a shell dislikes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
