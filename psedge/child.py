"""A psedge process that `psedge run` starts on this machine, from its birth to its last words.

A child has a session of its own, so that a Ctrl-C reaches the parent alone, which then stops its
children in order. Its standard input is a pipe that nobody writes to: when the parent is gone,
however it died, the pipe ends and the child with it (`--with-parent`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_LAST_WORDS_BYTES = 16 * 1024
_LAST_WORDS_LINES = 12


class Child:
    """A running `python -m psedge ...`, with its output in a log file.

    Raises OSError when the process or its log cannot be made.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            # The command is this very program; its arguments are no shell's business.
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "psedge", *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._process.poll()

    @property
    def running(self) -> bool:
        return self.exit_code is None

    def output(self) -> str:
        """What it has written since it was started, at most the first and last few kilobytes."""
        with self.log.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(self._log_start)
            text = log.read(_LAST_WORDS_BYTES)
            if size - log.tell() > 0:
                log.seek(max(log.tell(), size - _LAST_WORDS_BYTES))
                text += log.read(_LAST_WORDS_BYTES)
        return text.decode("utf-8", "replace")

    def last_words(self) -> str:
        """Why it ended: its own `error:` line, else the last lines of its log."""
        lines = [line for line in self.output().splitlines() if line.strip()]
        for line in reversed(lines):
            if line.startswith("error: "):
                return line.removeprefix("error: ")
        if not lines:
            return f"ended {self._ending()} without a word"
        return "\n".join([f"ended {self._ending()}; {self.log} ends with:", *self._tail(lines)])

    def terminate(self) -> None:
        """Ask it to stop in order, as Ctrl-C in its own terminal would."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and whatever it started, at once."""
        if self.running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self, timeout_seconds: float) -> None:
        """Wait for its end, at most so long, then kill it; leaves no zombie behind."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    def _ending(self) -> str:
        code = self.exit_code
        if code is not None and code < 0:
            return f"by {signal.Signals(-code).name}"
        return f"with exit code {code}"

    @staticmethod
    def _tail(lines: Sequence[str]) -> list[str]:
        return [f"    {line}" for line in lines[-_LAST_WORDS_LINES:]]
