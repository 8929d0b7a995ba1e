"""Strikes a world with faults: waits for each one's moment, begins it, ends it when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from psedge.simulation.faults.effects import Effects, Undo
from psedge.simulation.faults.kinds import Fault, Partition
from psedge.simulation.faults.moment import COUNTED, Moment, moment_of
from psedge.simulation.faults.surgery import FaultTrace, Surgery


class Injector:
    """The faults of one run.

    clock_sleep: sleeps virtual seconds that are true, whatever faults do to clocks. Times of faults
    count from the call of `run`. begun: called with each fault that has struck. Every begin and
    end goes to the trace as a notable `fault`.
    Raises ConfigError for a moment that is none.
    """

    def __init__(
        self,
        faults: Sequence[Fault],
        surgery: Surgery,
        clock_sleep: Callable[[float], Awaitable[None]],
        trace: FaultTrace,
        begun: Callable[[Fault], None] = lambda fault: None,
    ) -> None:
        #: What has struck, one sentence each, in order.
        self.struck: list[str] = []
        self._faults = tuple(faults)
        self._sleep = clock_sleep
        self._trace = trace
        self._told = begun
        self._surgery = surgery
        self._effects = Effects(surgery)
        self._began = [False] * len(self._faults)
        #: What ends each fault that stands, by its place among the faults.
        self._undo: dict[int, Undo] = {}
        self._healed = False
        moments = (moment_of(fault.after) if fault.after else None for fault in self._faults)
        self._moments = [(moment, asyncio.Event()) for moment in moments]
        self._awaited = {moment.word for moment, _ in self._moments if moment is not None}

    async def run(self) -> None:
        """Returns once every fault is over; never, if a moment that one waits for never comes."""
        tasks = [asyncio.ensure_future(self._one(number)) for number in range(len(self._faults))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def event(self, text: str) -> None:
        """Something happened: "checkpoint 3", "push 500", "epoch 1", "join pi-2", "training".

        Faults that wait for a smaller count strike too, so that a count may skip.
        """
        # Pushes come by the thousand, and hardly ever does a fault wait for one.
        if text.partition(" ")[0] not in self._awaited:
            return
        happened = moment_of(text)
        for moment, reached in self._moments:
            if moment is not None and _includes(happened, moment):
                reached.set()

    def heal(self) -> None:
        """End everything that stands, now, and let nothing strike any more.

        Hosts that went down for good stay down.
        """
        self._healed = True
        for number in sorted(self._undo):
            self._end(number)

    def outstanding(self) -> list[str]:
        """The faults that have not struck, one sentence each."""
        return [
            fault.describe()
            for fault, began in zip(self._faults, self._began, strict=True)
            if not began
        ]

    async def _one(self, number: int) -> None:
        fault, (moment, reached) = self._faults[number], self._moments[number]
        if moment is not None:
            await reached.wait()
        wait = fault.delay if moment is not None else fault.at or 0.0
        if wait:
            await self._sleep(wait)
        if self._healed:
            return
        self._begin(number)
        if number in self._undo and fault.lasts is not None:
            await self._sleep(fault.lasts)
            self._end(number)

    def _begin(self, number: int) -> None:
        fault = self._faults[number]
        self._began[number] = True
        self.struck.append(fault.describe())
        self._trace.record("fault", fault.where, fault.what(), notable=True)
        for role, holders in self._roles(fault):
            self._trace.record("role", role, ", ".join(holders) or "nobody", notable=True)
        undo = self._effects.begin(fault)
        if undo is not None:
            self._undo[number] = undo
        self._told(fault)

    def _roles(self, fault: Fault) -> list[tuple[str, tuple[str, ...]]]:
        """Of those it strikes, the roles that move, and who has them now."""
        targets = fault.between if isinstance(fault, Partition) else (fault.on,)
        return [role for target in targets for role in self._surgery.hosts.moving(target).items()]

    def _end(self, number: int) -> None:
        undo = self._undo.pop(number, None)
        if undo is not None:
            fault = self._faults[number]
            self._trace.record("fault", fault.where, fault.over(), notable=True)
            undo()


def _includes(happened: Moment, awaited: Moment) -> bool:
    if happened.word != awaited.word:
        return False
    if happened.word in COUNTED:
        return happened.nth >= awaited.nth
    return happened == awaited
