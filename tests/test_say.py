"""Lines for people never end a training."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import click
import pytest
from rich.console import Console

from psedge.protocol.status import Status
from psedge.terminal.say import say
from psedge.terminal.screen import LiveScreen


def test_a_full_disk_under_the_log_is_survived(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say("one")
    with monkeypatch.context() as patch:

        def full(text: str, file: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(click, "echo", full)
        say("two")
    say("three")
    assert capsys.readouterr().out == "one\nthree\n"


def test_a_reader_that_has_gone_is_survived() -> None:
    code = (
        "import sys\n"
        "from psedge.terminal.say import say\n"
        "for number in range(3): say(str(number))\n"
        "sys.exit(7)\n"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (7, "")


def test_a_line_stands_above_the_live_picture(capsys: pytest.CaptureFixture[str]) -> None:
    screen = LiveScreen(Console(force_terminal=True, width=80, height=40, color_system=None))
    screen.show(Status("digits-1", "training"), now=0.0)
    capsys.readouterr()
    say("server 1 joined")
    written = capsys.readouterr().out
    screen.close()
    before, after = written.split("server 1 joined")
    assert "\x1b[2K" in before, "the picture is taken away"
    assert "digits-1" in after, "and drawn again below"
