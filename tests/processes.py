"""Real psedge processes for tests: started in their own session, awaited by what they print."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

#: Longest a test waits for anything; a loaded machine needs some of it, a healthy one seconds.
PATIENCE_SECONDS = 90.0


class Process:
    """One `python ...`; everything it prints goes to one log.

    prefix: a command that becomes it, such as one that enters a network namespace first.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, name: str, prefix: Sequence[str] = ()
    ) -> None:
        self._log = folder / f"{name}.log"
        environment = {
            **os.environ,
            "HOME": str(folder / "home"),
            "XDG_RUNTIME_DIR": str(folder / "home"),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        with self._log.open("wb") as log:
            self.popen = subprocess.Popen(
                [*prefix, sys.executable, *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def expect(self, pattern: str) -> re.Match[str]:
        """The first match of `pattern` in what it prints, as soon as there is one."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            found = re.search(pattern, self.output())
            if found:
                return found
            if self.popen.poll() is not None:
                break
            _pause()
        found = re.search(pattern, self.output())
        assert found, f"{pattern!r} was not printed:\n{self.output()}"
        return found

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def exit_code(self) -> int:
        """Wait for its end."""
        try:
            return self.popen.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end:\n{self.output()}") from None

    def close(self) -> None:
        if self.popen.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait()


class Processes:
    """Starts processes in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Process] = []
        (folder / "home").mkdir(exist_ok=True)

    def __call__(self, *arguments: object, name: str = "") -> Process:
        """`psedge ARGUMENTS`"""
        label = name or f"{len(self._started)}-{arguments[0]}"
        return self.python("-m", "psedge", *arguments, name=label)

    def python(self, *arguments: object, name: str) -> Process:
        """`python ARGUMENTS`"""
        process = Process([str(argument) for argument in arguments], self.folder, name)
        self._started.append(process)
        return process

    def close(self) -> None:
        for process in self._started:
            process.close()


@contextmanager
def processes_in(folder: Path) -> Iterator[Processes]:
    """A starter of processes, all of which are gone at the end."""
    starter = Processes(folder)
    try:
        yield starter
    finally:
        starter.close()


def until(condition: object, what: str) -> None:
    """Wait until `condition()` holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"in vain: {what}"
        _pause()


def _pause() -> None:
    time.sleep(0.02)
