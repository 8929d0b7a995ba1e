"""Work beside that of requests, whose unexpected end nobody would see otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


def begin(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run `work` from now on; a bug in it is told to the event loop at once."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_tell)
    return task


def _tell(task: asyncio.Task[None]) -> None:
    if task.cancelled() or task.exception() is None:
        return
    task.get_loop().call_exception_handler(
        {
            "message": "a part of this server has ended that should not have",
            "exception": task.exception(),
            "task": task,
        }
    )
