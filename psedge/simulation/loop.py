"""An event loop on virtual time: nothing waits, the clock jumps to the next timer.

What runs on it is ordinary asyncio code. As long as that code reads no other clock, starts no
thread and draws from no unseeded source, which `guard.py` sees to, a run is a pure function of its
code and its seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context
from typing import Any, TypeVar

from psedge.protocol.errors import TrainingError
from psedge.simulation.guard import LeakError, sealed
from psedge.simulation.process import PROCESS, GatedHandle, GatedTimer

T = TypeVar("T")

#: Timers this close to each other are due together.
RESOLUTION_SECONDS = 1e-9
#: See `gc.set_threshold`.
COLLECTION_THRESHOLDS = (50_000, 20, 20)
#: So many cancelled timers may lie about.
CANCELLED_LIMIT = 100
#: What is left of a run when it ends is cancelled so often, and has so long to clean up.
CLEANUP_ROUNDS = 3
CLEANUP_SECONDS = 600.0


#: A callback that belongs to no process, with its arguments.
_Plain = tuple[Callable[..., Any], tuple[Any, ...]]


class Stalled(TrainingError):  # noqa: N818
    """Nothing can ever happen any more, or the time that a run was given is over."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Starts at 0 virtual seconds. Raises Stalled past `limit_seconds`, or when nothing is due."""

    def __init__(self, limit_seconds: float = float("inf")) -> None:
        super().__init__()
        #: Virtual seconds since the start.
        self.now = 0.0
        self._limit = limit_seconds
        #: A heap by time; timers of the same time keep their order. Tuples compare without Python.
        self._timers: list[tuple[float, int, GatedTimer | _Plain]] = []
        self._timers_made = 0
        self._timers_cancelled = 0
        #: What ended a callback or a task that nobody awaits; it ends the run.
        self.failure: BaseException | None = None
        self.set_exception_handler(_keep_failure)
        #: The run is over, and what is left of it may clean up, dead or not.
        self.closing = False
        #: Tasks that may belong to dead processes. Were they collected as garbage, their `finally`
        #: blocks would run after all, and at no time that a seed determines.
        self._kept: set[asyncio.Task[Any]] = set()

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self.now

    def jump_limit(self, seconds: float) -> None:
        """From now on, so many more virtual seconds may pass."""
        self._limit = self.now + seconds

    def keep_tasks(self) -> None:
        """Hold on to every task there is, because a process has died."""
        self._kept = {task for task in self._kept | asyncio.all_tasks(self) if not task.done()}

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's own, for the process in whose context it is called."""
        timer = GatedTimer(when, callback, args, self, context)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, timer))
        return timer

    def call_plain_at(self, when: float, callback: Callable[..., Any], *args: Any) -> None:
        """As `call_at`, of what belongs to no process and is never cancelled; in half the time."""
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, (callback, args)))

    def timer_cancelled(self) -> None:
        """Called by timers that wait in the heap."""
        self._timers_cancelled += 1

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's own."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's own."""
        handle = GatedHandle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None
    ) -> asyncio.Task[T]:
        """As asyncio's own without a task factory."""
        return asyncio.Task(coro, loop=self, name=name)

    def _run_once(self) -> None:
        """asyncio's own without what waits for sockets: time passes at once."""
        if self.failure is not None and not self.closing:
            raise self.failure
        ready, timers = self._ready, self._timers  # type: ignore[attr-defined]
        if self._timers_cancelled > CANCELLED_LIMIT:
            self._drop_cancelled()
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            self._pass_time()
        due = self.now + RESOLUTION_SECONDS
        while timers and timers[0][0] < due:
            timer = heapq.heappop(timers)[2]
            if not isinstance(timer, tuple):
                if timer._cancelled:
                    self._timers_cancelled -= 1
                    continue
                timer._scheduled = False
            ready.append(timer)
        self._run_ready()

    def _run_ready(self) -> None:
        """Run what is ready now, except for what belongs to a stopped process."""
        ready = self._ready  # type: ignore[attr-defined]
        for _ in range(len(ready)):
            handle = ready.popleft()
            if type(handle) is tuple:
                call, arguments = handle
            elif handle._cancelled:
                continue
            else:
                process = handle._context.get(PROCESS)
                if process is not None and process.stopped and not self.closing:
                    process.park(handle)
                    continue
                call, arguments = handle._context.run, (handle._callback, *handle._args)
            try:
                call(*arguments)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": f"in {handle!r}", "exception": error})

    def _pass_time(self) -> None:
        """Nothing is ready: jump to the next timer."""
        timers = self._timers
        while timers and _is_cancelled(timers[0][2]):
            heapq.heappop(timers)
            self._timers_cancelled -= 1
        if not timers:
            raise Stalled("everything waits, and nothing is left that could wake it")
        if timers[0][0] > self.now:
            self.now = timers[0][0]
        if self.now > self._limit:
            raise Stalled(f"not at an end after {self._limit:g} virtual seconds")

    def _drop_cancelled(self) -> None:
        """Cancelled timers are taken out of the heap when they are too many."""
        timers = self._timers
        if 2 * self._timers_cancelled > len(timers):
            timers[:] = [entry for entry in timers if not _is_cancelled(entry[2])]
            heapq.heapify(timers)
            self._timers_cancelled = 0

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """For asyncio's own use within this thread; there is no other one."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Raises LeakError: a thread ends when it likes, not when virtual time says so."""
        self.failure = LeakError(
            f"{getattr(func, '__qualname__', func)} would run in a thread, which the "
            "virtual world has none of"
        )
        raise self.failure

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector who would have to be woken."""


def run_virtual(main: Coroutine[Any, Any, T], *, limit_seconds: float = float("inf")) -> T:
    """Run a coroutine to its end on a loop of its own; whatever it left running is cancelled.

    Raises Stalled, and what a callback raised that nobody awaited.
    """
    loop = VirtualLoop(limit_seconds)
    try:
        with sealed(), _seldom_collecting():
            asyncio.set_event_loop(loop)
            task = loop.create_task(main)
            try:
                result = loop.run_until_complete(task)
            finally:
                _cancel_all(loop)
        if loop.failure is not None:
            raise loop.failure
        return result
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@contextlib.contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Looking for garbage among a million objects that all live would take a fifth of the time."""
    thresholds = gc.get_threshold()
    gc.set_threshold(*COLLECTION_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def _is_cancelled(timer: GatedTimer | _Plain) -> bool:
    return not isinstance(timer, tuple) and timer._cancelled


def _keep_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, VirtualLoop)
    error = context.get("exception")
    if loop.failure is None and error is not None:
        loop.failure = error


def _cancel_all(loop: VirtualLoop) -> None:
    """Cancel every task; what they do while they end is no longer part of the run."""
    loop.closing = True
    loop.jump_limit(CLEANUP_SECONDS)
    for _ in range(CLEANUP_ROUNDS):
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        if not left:
            return
        for task in left:
            task.cancel()
        with contextlib.suppress(Stalled, asyncio.CancelledError):
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    closed: set[asyncio.Task[Any]] = set()
    for _ in range(CLEANUP_ROUNDS):
        # What ends a coroutine may begin others, which will not come to run.
        for task in asyncio.all_tasks(loop) - closed:
            _close(task)
            closed.add(task)


def _close(task: asyncio.Task[Any]) -> None:
    """End a coroutine whose wake-up was lost with its dead process."""
    coroutine = task.get_coro()
    for _ in range(CLEANUP_ROUNDS):
        with contextlib.suppress(BaseException):
            coroutine.close()
            return
