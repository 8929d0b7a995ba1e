"""How psedge's processes run their event loop: uvloop where there is one, and an orderly end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

#: What a shell calls an end by Ctrl-C.
INTERRUPTED = 130


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    runner: Callable[[Coroutine[Any, Any, T]], T] = uvloop.run
    return runner(main)


def end_at_once_on_interrupt() -> None:
    """Until `on_interrupt` takes over, Ctrl-C ends the process with one line.

    A process that only imports and builds has nothing to lose, and a KeyboardInterrupt in the
    middle of an import may come out of it as any other error.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    # The print function is no choice here: the signal may have interrupted one.
    os.write(sys.stderr.fileno(), b"stopped by Ctrl-C\n")
    os._exit(INTERRUPTED)


def on_interrupt(stop: Callable[[str], None]) -> None:
    """Call `stop` with a reason at the first Ctrl-C or SIGTERM; a second Ctrl-C ends all at once.

    A SIGTERM that comes again, as service managers send it, changes nothing.
    """
    loop = asyncio.get_running_loop()
    asked = False

    def interrupted() -> None:
        nonlocal asked
        if asked:
            os._exit(INTERRUPTED)
        asked = True
        stop("stopped by Ctrl-C")

    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGTERM, stop, "stopped by SIGTERM")


async def parent_gone() -> None:
    """Return when the process that started this one is gone: its end of our stdin closes."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(4096):
        continue
