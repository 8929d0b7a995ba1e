"""Bugs to plant in production code, and the random schedules in which checkers have to find them.

`python tests/planted_bugs.py` prints the table of docs/simulation.md. Each bug is a mistake that
somebody could make; while its context is open the code has it, and afterwards it has not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from planted_replica_bugs import PLANTED_IN_REPLICAS, replaced
from simulated_schedules import schedule

from psedge.compression.coder import Coder
from psedge.protocol.errors import UnreachableError
from psedge.protocol.ports import Transport
from psedge.protocol.wire import HEADER_BYTES, Status
from psedge.server.consistency import Gate
from psedge.server.ledger import Ledger
from psedge.server.published import Published
from psedge.server.shard import Shard
from psedge.simulation.outcome import Violation
from psedge.simulation.run import simulate
from psedge.supervisor.data_plan import DataPlan
from psedge.supervisor.data_pool import Pool
from psedge.supervisor.keeper import Keeper
from psedge.supervisor.membership import Membership
from psedge.supervisor.roster import Roster
from psedge.supervisor.service import Supervisor
from psedge.worker import client
from psedge.worker.client import ShardClient
from psedge.worker.shard_link import ShardLink

#: A bug that so many schedules do not show has not been caught.
SEEDS = 500


@contextmanager
def dedup_off() -> Iterator[None]:
    """A retry after a lost reply is taken for a new push."""
    with (
        replaced(Ledger, "is_duplicate", lambda _: lambda self, push: False),
        replaced(Ledger, "require_next", lambda _: lambda self, push: None),
    ):
        yield


def gate_ignores_staleness() -> Any:
    """Everyone may always go on."""
    return replaced(Gate, "may_proceed", lambda _: lambda self, worker: True)


@contextmanager
def joiners_start_at_zero() -> Iterator[None]:
    """Who comes in counts as having done nothing, and the floor falls."""

    def make(original: Any) -> Any:
        def set_members(self: Gate, *members: Any) -> None:
            known = set(self._members)
            original(self, *members)
            for worker in self._clocks.keys() - known:
                self._clocks[worker] = 0
            self._find_floor()

        return set_members

    with replaced(Gate, "set_members", make), replaced(Gate, "change_members", make):
        yield


def the_dead_stay_members() -> Any:
    """No lease ever runs out."""
    return replaced(Membership, "expire", lambda _: lambda self, now: [])


def residual_dropped_on_rejoin() -> Any:
    """What an earlier incarnation still owes is forgotten."""

    def make(original: Any) -> Any:
        def begin(self: ShardClient, *things: Any, owed: Any = None, **further: Any) -> None:
            original(self, *things, **further)

        return begin

    return replaced(ShardClient, "__init__", make)


def given_up_and_not_undone() -> Any:
    """A push that was given up stays out of the residual."""
    return replaced(client, "undo", lambda _: lambda piece, residual: None)


def refused_and_not_taken_back() -> Any:
    """A push that was refused as too old does not go back to the residual."""
    return replaced(client, "take_back", lambda _: lambda piece, residual: None)


def codec_loses_mass() -> Any:
    """A thousandth of what a codec drops is lost."""

    def make(original: Any) -> Any:
        def encode(self: Coder, values: Any, residual: Any, state: Any) -> Any:
            encoded = original(self, values, residual, state)
            if residual is not None:
                residual *= np.float32(0.999)
            return encoded

        return encode

    return replaced(Coder, "encode", make)


def refused_push_is_applied() -> Any:
    """The worker is told that its push was too old, and it is applied all the same."""

    def make(original: Any) -> Any:
        def push(self: Shard, pushed: Any) -> Any:
            outcome = original(self, pushed)
            if outcome.status is Status.REFUSED_LAG:
                pushed.opened.decode_accumulate(-0.05, self.parameters)
            return outcome

        return push

    return replaced(Shard, "push", make)


def late_reply_is_taken() -> Any:
    """When a reply does not come in time, the one before it is taken for it."""

    class Late:
        def __init__(self, transport: Transport, link: ShardLink) -> None:
            self._transport, self._link = transport, link

        async def call(self, *things: Any, **further: Any) -> memoryview:
            before = bytes(self._link._body)
            try:
                return await self._transport.call(*things, **further)
            except UnreachableError:
                if len(before) < HEADER_BYTES:
                    raise
                return memoryview(before)

    def make(original: Any) -> Any:
        def begin(self: ShardLink, transport: Transport, *things: Any) -> None:
            late: Any = Late(transport, self)
            original(self, late, *things)

        return begin

    return replaced(ShardLink, "__init__", make)


def chain_position_is_ignored() -> Any:
    """A difference is sent to whoever asks, whatever it is a difference to."""

    def make(original: Any) -> Any:
        def publication(self: Published, wanted: Any, version: int, parameters: Any) -> Any:
            record = self._records.get(wanted.key)
            if record is not None and wanted.position < record.position:
                wanted = type(wanted)(
                    wanted.worker,
                    wanted.incarnation,
                    wanted.codec,
                    wanted.lossless,
                    record.position,
                )
            return original(self, wanted, version, parameters)

        return publication

    return replaced(Published, "publication", make)


def range_is_handed_out_twice() -> Any:
    """What a leaver has pushed since the last report goes back to the pool too."""

    def make(original: Any) -> Any:
        def release(
            self: Pool, worker: int, samples_seen: int, incarnation: int | None = None
        ) -> int:
            account = self.accounts.get(worker)
            return original(self, worker, account.seen if account else 0, incarnation)

        return release

    return replaced(Pool, "release", make)


def leavers_samples_are_lost() -> Any:
    """What a leaver has not visited is visited by nobody."""

    def make(original: Any) -> Any:
        def release(
            self: Pool, worker: int, samples_seen: int, incarnation: int | None = None
        ) -> int:
            account = self.accounts.get(worker)
            if account is not None and incarnation in (None, account.incarnation):
                samples_seen = account.seen + account.held_samples
            return original(self, worker, samples_seen, incarnation)

        return release

    return replaced(Pool, "release", make)


def checkpoint_without_its_plan() -> Any:
    """A resumed run hands out all samples anew."""

    def make(original: Any) -> Any:
        def meta(self: Keeper, *things: Any) -> Any:
            return msgspec.structs.replace(original(self, *things), plan=None)

        return meta

    return replaced(Keeper, "_meta", make)


def momentum_is_not_restored() -> Any:
    """A resumed run begins with the update rule at rest."""

    def make(original: Any) -> Any:
        def restored(cls: type[Shard], *things: Any) -> Any:
            shard = original.__func__(cls, *things)
            for vector in shard._rule.state.values():
                vector.fill(0.0)
            return shard

        return classmethod(restored)

    return replaced(Shard, "restored", make)


def plan_is_ahead_of_its_parameters() -> Any:
    """A checkpoint has the plan of when it was written, and parameters from before.

    Random schedules rarely part servers while a checkpoint is gathered and crash one right after
    it; a test does so on purpose.
    """
    return replaced(
        DataPlan, "export", lambda original: lambda self, seen=None: original(self, None)
    )


def missed_changes_are_not_told_again() -> Any:
    """A server that did not hear of a worker's death goes on waiting for it."""

    def make(original: Any) -> Any:
        async def tell_again(self: Roster) -> None:
            return

        return tell_again

    return replaced(Roster, "tell_again", make)


def final_checkpoint_comes_too_early() -> Any:
    """The last checkpoint does not wait for the last pushes to other shards."""

    def make(original: Any) -> Any:
        def are_in(self: Supervisor, now: float) -> bool:
            return True

        return are_in

    return replaced(Supervisor, "_last_pushes_are_in", make)


@dataclass(frozen=True, slots=True)
class Catch:
    """What the first schedule that shows a bug violates.

    seeds: how many it took, None for too many. invariants: those violated.
    """

    seeds: int | None
    invariants: tuple[int, ...] = ()
    says: str = ""


#: name in the table: how to plant it.
PLANTED: dict[str, Callable[[], Any]] = {
    "a retry is not recognised": dedup_off,
    "a reply that comes too late: the one before it is taken for it": late_reply_is_taken,
    "differences are sent whatever the worker's position in the chain": chain_position_is_ignored,
    "momentum is not restored from a checkpoint": momentum_is_not_restored,
    "the gate ignores staleness": gate_ignores_staleness,
    "who joins starts at clock 0, and the floor falls": joiners_start_at_zero,
    "no lease ever runs out": the_dead_stay_members,
    "the residual is dropped on joining again": residual_dropped_on_rejoin,
    "a push that is given up is not undone": given_up_and_not_undone,
    "a push refused as too old is not taken back": refused_and_not_taken_back,
    "a codec loses a thousandth of what it drops": codec_loses_mass,
    "a refused push is applied all the same": refused_push_is_applied,
    "a range of samples is handed out twice": range_is_handed_out_twice,
    "a leaver's unvisited samples are lost": leavers_samples_are_lost,
    "a checkpoint lacks its data plan": checkpoint_without_its_plan,
    "servers that missed a change of members are not told again": missed_changes_are_not_told_again,
    "the last checkpoint does not wait for the last pushes": final_checkpoint_comes_too_early,
    **PLANTED_IN_REPLICAS,
}


def caught(plant: Callable[[], Any], *, first: int = 0, seeds: int = SEEDS) -> Catch:
    """Look for the first of `seeds` schedules in which a planted bug violates an invariant.

    Without the bug the same schedule must violate nothing.
    """
    for tried in range(seeds):
        with plant():
            violations = violations_of(first + tried)
        if violations and not violations_of(first + tried):
            found = tuple(sorted({one.invariant for one in violations}))
            return Catch(tried + 1, found, violations[0].text)
    return Catch(None)


def violations_of(seed: int) -> tuple[Violation, ...]:
    order, work = schedule(seed)
    return simulate(order, work=work).violations


def main() -> None:
    """Print the table, of all bugs or of those whose name has the first argument in it."""
    print("| planted bug | invariants violated | seeds needed |")
    print("|---|---|---|")
    for name, plant in PLANTED.items():
        if len(sys.argv) > 1 and sys.argv[1] not in name:
            continue
        catch = caught(plant)
        seeds = f"> {SEEDS}" if catch.seeds is None else str(catch.seeds)
        invariants = ", ".join(str(invariant) for invariant in catch.invariants) or "none"
        print(f"| {name} | {invariants} | {seeds} |", flush=True)
        print(catch.says, file=sys.stderr)


if __name__ == "__main__":
    main()
