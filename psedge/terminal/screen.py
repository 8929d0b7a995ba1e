"""Where `psedge run` shows its progress: a live picture on a terminal, lines everywhere else."""

from __future__ import annotations

import sys
import termios
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live

from psedge.protocol.status import ENDED, Status
from psedge.terminal.view import History, plain_line, render

#: Lines of the picture that are not workers, generously.
_OTHER_LINES = 18
_LINE_SECONDS = 1.0


class Screen(Protocol):
    """Shows statuses as they come."""

    def show(self, status: Status, now: float) -> None:
        """Draw a status. now: monotonic seconds."""
        ...

    def close(self) -> None:
        """Leave the last picture where it is and give the terminal back."""
        ...


class LiveScreen:
    """One picture that is drawn over and over again in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._history = History()
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._terminal = without_control_echo()
        self._live.start()

    def show(self, status: Status, now: float) -> None:
        self._history.observe(status)
        rows = max(3, self._console.size.height - _OTHER_LINES)
        self._live.update(render(status, self._history, rows), refresh=True)

    def close(self) -> None:
        self._live.stop()
        restore_terminal(self._terminal)


class PlainScreen:
    """A line a second, when there is something new to say."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._history = History()
        self._said_at = float("-inf")
        self._said = ""
        self._notes: tuple[str, ...] = ()

    def show(self, status: Status, now: float) -> None:
        self._history.observe(status)
        for note in status.notes:
            if note not in self._notes:
                self._print(f"note: {note}")
        self._notes = status.notes
        line = plain_line(status, self._history)
        ended = status.phase in ENDED
        if line != self._said and (ended or now - self._said_at >= _LINE_SECONDS):
            self._said, self._said_at = line, now
            self._print(line)

    def close(self) -> None:
        pass

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def screen_for(console: Console) -> Screen:
    """The screen that suits where the console writes to."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveScreen(console)
    return PlainScreen(console)


def without_control_echo() -> list[Any] | None:
    """Keeps the terminal from writing `^C` into the picture; returns the settings to restore.

    None when standard input is no terminal.
    """
    if not sys.stdin.isatty():
        return None
    earlier = termios.tcgetattr(sys.stdin)
    changed = list(earlier)
    changed[3] &= ~termios.ECHOCTL
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, changed)
    return earlier


def restore_terminal(settings: list[Any] | None) -> None:
    """Undo `without_control_echo`, whose result this takes."""
    if settings is not None:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
