"""Processes of the virtual world: many in one event loop, and each can be stopped or killed.

Every callback of asyncio runs in a context, and a context says whose process it belongs to. The
loop asks before it runs one: what belongs to a stopped process waits until it goes on, as after
SIGSTOP, and what belongs to a dead one never runs again, `finally` blocks included, as after
SIGKILL.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class Process:
    """One start of a program on a host. number: counts the starts on that host, from 1."""

    def __init__(self, host: str, number: int) -> None:
        self.host = host
        self.number = number
        self.dead = False
        #: Whether callbacks wait; True as well once it is dead.
        self.stopped = False
        #: How long it has been stopped so far, in virtual seconds.
        self.stopped_seconds = 0.0
        self._stopped_at = 0.0
        self._parked: list[events.Handle] = []

    def run(self, main: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task whose callbacks, and those of all it starts, belong to this process."""
        context = copy_context()
        context.run(PROCESS.set, self)
        task: asyncio.Task[T] = context.run(asyncio.get_running_loop().create_task, main)
        return task

    def stop(self) -> None:
        """Let none of its callbacks run from now on."""
        if not self.stopped:
            self.stopped, self._stopped_at = True, asyncio.get_running_loop().time()

    def go_on(self) -> None:
        """Run what has become due in the meantime, in order."""
        if self.dead or not self.stopped:
            return
        loop = asyncio.get_running_loop()
        self.stopped = False
        self.stopped_seconds += loop.time() - self._stopped_at
        parked, self._parked = self._parked, []
        for handle in parked:
            # Back among those that are ready, as asyncio itself does with timers that are due.
            loop._ready.append(handle)  # type: ignore[attr-defined]

    def kill(self) -> None:
        """End it here and now."""
        self.dead = self.stopped = True
        self._parked.clear()

    def park(self, handle: events.Handle) -> None:
        if not self.dead:
            self._parked.append(handle)


PROCESS: ContextVar[Process | None] = ContextVar("psedge_virtual_process", default=None)


class GatedHandle(events.Handle):
    """A callback that the loop runs only while its process does."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        # As the base class does it, which spends more on its debug mode than on all else.
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class GatedTimer(events.TimerHandle):
    """A timer whose callback the loop runs only while its process does."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when
        self._scheduled = True

    def cancel(self) -> None:
        if self._cancelled:
            return
        self._cancelled = True
        # What the callback refers to is held no longer.
        self._callback = self._args = None  # type: ignore[assignment]
        if self._scheduled:
            self._loop.timer_cancelled()  # type: ignore[attr-defined]
