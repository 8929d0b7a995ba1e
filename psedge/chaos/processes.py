"""Processes of this machine's user: found, killed, started again, stopped and continued.

All that is known of a process is read from /proc, so this works on Linux alone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from psedge.protocol.errors import ConfigError

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Running:
    """A psedge process as it was started.

    started: moment of its start in the kernel's ticks, which tells it from a later process of the
    same number. program: what comes before the command. arguments: `server` or `worker` and the
    rest. output: the file or terminal that it writes to, None if that cannot be opened again.
    """

    pid: int
    started: int
    program: tuple[str, ...]
    arguments: tuple[str, ...]
    folder: Path
    output: Path | None
    environment: dict[str, str] = field(repr=False)

    @property
    def has_parent(self) -> bool:
        """Whether `psedge run` started it and looks after it."""
        return "--with-parent" in self.arguments


def require_linux() -> None:
    """Raises ConfigError where processes cannot be looked into."""
    if sys.platform != "linux":
        raise ConfigError("psedge chaos needs Linux: it reads /proc to find and restart processes")


def look_up(pid: int) -> Running | None:
    """The psedge process of this number; None if there is none, or it is another program's.

    Raises ConfigError when it belongs to somebody else.
    """
    proc = _PROC / str(pid)
    try:
        owner = proc.stat().st_uid
        command = _fields(proc / "cmdline")
        split = _command_at(command)
        if split is None:
            return None
        if owner != os.getuid():
            raise ConfigError(
                f"process {pid} is another user's: psedge chaos strikes only your own processes"
            )
        return Running(
            pid,
            _started(proc),
            tuple(command[:split]),
            tuple(command[split:]),
            (proc / "cwd").readlink(),
            _output(proc),
            dict(pair.split("=", 1) for pair in _fields(proc / "environ") if "=" in pair),
        )
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        raise ConfigError(f"process {pid} is another user's, or may not be looked into") from None


def is_alive(running: Running) -> bool:
    """Whether it has not ended; a zombie has."""
    try:
        proc = _PROC / str(running.pid)
        return _started(proc) == running.started and _state(proc) not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def send(running: Running, number: signal.Signals) -> None:
    """Send a signal to that very process; nothing happens if it has ended."""
    if is_alive(running):
        try:
            os.kill(running.pid, number)
        except ProcessLookupError:
            return


def start_again(running: Running, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process with the same program, folder and environment.

    log: where it writes if its earlier output cannot be opened.
    Raises OSError when it cannot be started.
    """
    target = running.output
    if target is None:
        log.parent.mkdir(parents=True, exist_ok=True)
        target = log
    with target.open("ab") as output:
        # The command is the user's own, as it ran before.
        return subprocess.Popen(  # noqa: S603
            [*running.program, *arguments],
            cwd=running.folder,
            env=running.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def is_here(host: str) -> bool:
    """Whether an address or name is this machine's."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    for address in found:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                # Only an address of one's own can be bound.
                probe.bind((address, 0))
            except OSError:
                return False
    return bool(found)


def _command_at(command: list[str]) -> int | None:
    """Where `server` or `worker` stands after the program; None if it is no psedge command."""
    for at in range(1, len(command)):
        if command[at] in ("server", "worker"):
            name = Path(command[at - 1]).name
            module = at >= 2 and command[at - 2 : at] == ["-m", "psedge"]
            inside = name == "__main__.py" and Path(command[at - 1]).parent.name == "psedge"
            return at if module or name == "psedge" or inside else None
    return None


def _fields(path: Path) -> list[str]:
    return [part.decode(errors="surrogateescape") for part in path.read_bytes().split(b"\0")[:-1]]


def _stat(proc: Path) -> list[str]:
    """Fields after the program's name, which may hold anything."""
    return (proc / "stat").read_text().rpartition(")")[2].split()


def _started(proc: Path) -> int:
    return int(_stat(proc)[19])


def _state(proc: Path) -> str:
    return _stat(proc)[0]


def _output(proc: Path) -> Path | None:
    target = (proc / "fd" / "1").readlink()
    usable = target.is_file() or (target.is_char_device() and target.parent.name == "pts")
    return target if usable and os.access(target, os.W_OK) else None
