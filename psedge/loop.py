"""How psedge's processes run their event loop: uvloop where there is one, and an orderly end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
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


def on_interrupt(stop: Callable[[], None]) -> None:
    """Call `stop` at the first Ctrl-C or SIGTERM; a second Ctrl-C ends the process at once."""
    loop = asyncio.get_running_loop()
    asked = False

    def interrupted() -> None:
        nonlocal asked
        if asked:
            os._exit(INTERRUPTED)
        asked = True
        stop()

    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGTERM, stop)


async def parent_gone() -> None:
    """Return when the process that started this one is gone: its end of our stdin closes."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(4096):
        continue
