"""The roster settles what a leaver held, and what was lost with a server, exactly once."""

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

    assigned = replaced = True

    def __init__(self) -> None:
        self.heard = asyncio.Event()
        self.progress = SimpleNamespace(of=lambda worker, incarnation: None)

    async def broadcast(self, *_: Any) -> None:
        await self.heard.wait()

    def confirmed(self, revision: int) -> bool:
        return self.heard.is_set()


async def saved() -> None:
    """No book."""


def made() -> tuple[Roster, DataPlan, Membership, SlowFleet]:
    """A roster with worker 0, incarnation 7, who holds 16 samples."""
    plan, membership, fleet = DataPlan.shared(64, 64), Membership(10.0), SlowFleet()
    state: Any = SimpleNamespace(
        membership=membership,
        plan=plan,
        fleet=fleet,
        ended=False,
        save_plan=saved,
        note=lambda text: None,
        decided=lambda *_: None,
    )
    clock: Any = SimpleNamespace(now=lambda: 0.0)
    membership.join("pi", 7, 0.0)
    assert plan.claim(0, 7, 16) is not None
    return Roster(state, clock), plan, membership, fleet


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_samples_go_back_even_if_the_request_is_cancelled_meanwhile() -> None:
    async def main() -> None:
        roster, plan, _, fleet = made()
        goodbye = asyncio.ensure_future(roster.leave(0, 7))
        await turns()
        goodbye.cancel()
        with pytest.raises(asyncio.CancelledError):
            await goodbye
        assert plan.outstanding(0) == 16
        fleet.heard.set()
        await turns()
        assert plan.outstanding(0) == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("idle", "replaced", "confirmed", "found"),
    [
        (True, True, True, True),
        (False, True, True, False),
        (True, False, True, False),
        (True, True, False, False),
    ],
)
def test_pushes_that_were_lost_with_a_primary_are_made_up_for(
    *, idle: bool, replaced: bool, confirmed: bool, found: bool
) -> None:
    """Only a worker that has pushed all it had can miss any, and only after a fail-over."""

    async def main() -> None:
        roster, plan, membership, fleet = made()
        membership.set_idle(0, 7, idle)
        fleet.replaced = replaced
        if confirmed:
            fleet.heard.set()
        roster.find_lost()
        await turns()
        assert (membership.entry(0, 7) is None) == found
        assert plan.outstanding(0) == (0 if found else 16)

    asyncio.run(main())
