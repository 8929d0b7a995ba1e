"""The roster settles what a leaver held, whatever becomes of the request that said goodbye."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from psedge.supervisor.data_plan import DataPlan
from psedge.supervisor.membership import Membership
from psedge.supervisor.roster import Roster


class SlowFleet:
    """Servers that hear of a change once they are let."""

    assigned = True

    def __init__(self) -> None:
        self.heard = asyncio.Event()
        self.progress = SimpleNamespace(of=lambda worker, incarnation: None)

    async def broadcast(self, *_: Any) -> None:
        await self.heard.wait()

    def confirmed(self, revision: int) -> bool:
        return self.heard.is_set()


async def saved() -> None:
    """No book."""


def test_samples_go_back_even_if_the_request_is_cancelled_meanwhile() -> None:
    async def main() -> None:
        plan, membership, fleet = DataPlan.shared(64, 64), Membership(10.0), SlowFleet()
        state: Any = SimpleNamespace(
            membership=membership, plan=plan, fleet=fleet, ended=False, save_plan=saved
        )
        clock: Any = SimpleNamespace(now=lambda: 0.0)
        roster = Roster(state, clock)
        entry = membership.join("pi", 7, 0.0)
        assert plan.claim(entry.worker, 7, 16) is not None
        goodbye = asyncio.ensure_future(roster.leave(entry.worker, 7))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        goodbye.cancel()
        with pytest.raises(asyncio.CancelledError):
            await goodbye
        assert plan.outstanding(entry.worker) == 16
        fleet.heard.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert plan.outstanding(entry.worker) == 0

    asyncio.run(main())
