"""Those who wait until the log entries they depend on are acknowledged, in the log's order."""

from __future__ import annotations

import asyncio
import heapq
import itertools

#: So many may wait before those that were cancelled meanwhile are looked for and forgotten.
_FEW = 64


def within(future: asyncio.Future[None], seconds: float) -> asyncio.Future[None]:
    """The same future, which fails with asyncio.TimeoutError if it takes longer than that.

    Unlike `asyncio.wait_for` it costs no more than a timer: pushes wait by the thousand.
    """
    timer = future.get_loop().call_later(seconds, _give_up, future)
    future.add_done_callback(lambda _: timer.cancel())
    return future


def _give_up(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(asyncio.TimeoutError())


class Waiters:
    """Futures by the index of the entry that each waits for.

    Whoever makes progress known releases; nobody looks again and again.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, asyncio.Future[None]]] = []
        #: Keeps the order of those who wait for the same entry; futures cannot be compared.
        self._arrivals = itertools.count()
        self._many = _FEW

    def __len__(self) -> int:
        return len(self._heap)

    def wait(self, index: int) -> asyncio.Future[None]:
        """Done once entry `index` is acknowledged; a PsedgeError if it never will be here."""
        if len(self._heap) >= self._many:
            self._forget_cancelled()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._heap, (index, next(self._arrivals), future))
        return future

    def release(self, index: int) -> None:
        """Everything up to `index` is acknowledged."""
        heap = self._heap
        while heap and heap[0][0] <= index:
            future = heapq.heappop(heap)[2]
            # Its handler may have been cancelled because the worker hung up.
            if not future.done():
                future.set_result(None)

    def fail(self, error: Exception) -> None:
        """Nothing more will be acknowledged here."""
        for _, _, future in self._heap:
            if not future.done():
                future.set_exception(error)
                # Its handler may never look, for the same reason as above.
                future.exception()
        self._heap.clear()

    def _forget_cancelled(self) -> None:
        """Workers that try again and again must not pile up what they gave up."""
        self._heap = [each for each in self._heap if not each[2].done()]
        heapq.heapify(self._heap)
        self._many = max(_FEW, 2 * len(self._heap))
