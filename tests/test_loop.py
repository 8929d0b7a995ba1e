"""Signals: the first asks, the second insists, and before anything runs one is enough."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from psedge import loop
from psedge.loop import INTERRUPTED, end_at_once_on_interrupt, on_interrupt


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Exit codes of processes that would have ended at once."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    before = signal.getsignal(signal.SIGINT)
    yield codes
    signal.signal(signal.SIGINT, before)


def heard(*numbers: signal.Signals) -> list[str]:
    reasons: list[str] = []

    async def work() -> None:
        on_interrupt(reasons.append)
        for number in numbers:
            count = len(reasons)
            os.kill(os.getpid(), number)
            for _ in range(1000):
                await asyncio.sleep(0)
                if len(reasons) > count:
                    break

    asyncio.run(work())
    return reasons


def test_each_signal_is_told_as_what_it_is(ends: list[int]) -> None:
    assert heard(signal.SIGTERM, signal.SIGTERM) == ["stopped by SIGTERM"] * 2
    assert heard(signal.SIGINT) == ["stopped by Ctrl-C"]
    assert ends == []


def test_a_second_ctrl_c_ends_the_process_at_once(ends: list[int]) -> None:
    heard(signal.SIGTERM, signal.SIGINT, signal.SIGINT)
    assert ends == [INTERRUPTED]


def test_a_handler_of_somebody_else_stays(ends: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_at_once_on_interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_at_once_on_interrupt()
    assert signal.getsignal(signal.SIGINT) is loop._end_at_once


def test_ctrl_c_in_the_middle_of_an_import_is_one_line() -> None:
    code = (
        "import os, signal, sys\n"
        "from psedge.loop import end_at_once_on_interrupt\n"
        "end_at_once_on_interrupt()\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    import decimal\n"
        "except BaseException:\n"
        "    sys.exit('some import has swallowed it')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "stopped by Ctrl-C\n")
