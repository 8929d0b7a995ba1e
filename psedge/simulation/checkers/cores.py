"""No core contradicts itself: each one's `check_invariants` after what changed it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from psedge.compression.codec import Float32Array
from psedge.protocol.log_entry import Entry
from psedge.protocol.shards import Members, ShardState
from psedge.server.push import Outcome
from psedge.server.push import Push as ServerPush
from psedge.server.replica import Replica
from psedge.server.service import ShardService
from psedge.server.shard import Shard
from psedge.simulation.checkers.checker import Checker
from psedge.supervisor.service import Supervisor
from psedge.worker.client import ExchangeResult
from psedge.worker.push import Push
from psedge.worker.session import Session


class Cores(Checker):
    """Calls `check_invariants` of whatever the hook before has changed.

    A shard is looked at at once; what serves it, at the end of the handler, when it is at rest.
    """

    invariant = 0

    def __init__(self, *further: Any) -> None:
        super().__init__(*further)
        self._services: dict[str, ShardService] = {}
        #: Shards that have changed since the last step, by host and number.
        self._changed: dict[tuple[str, int], None] = {}

    def server_opened(self, host: str, service: ShardService) -> None:
        self._services[host] = service

    def shard_made(self, host: str, shard: Shard, state: ShardState | None) -> None:
        self._look(host, shard)

    def members_set(self, host: str, shard: Shard, members: Members) -> None:
        self._look(host, shard)

    def shard_pushed(self, host: str, shard: Shard, push: ServerPush, outcome: Outcome) -> None:
        self._look(host, shard)

    def shard_raised(self, host: str, shard: Shard, push: ServerPush, error: Exception) -> None:
        self._look(host, shard)

    def replica_changed(self, host: str, replica: Replica, what: str) -> None:
        self._check(host, _copy(replica), replica.check_invariants)
        if what != "dropped":
            self._changed[host, replica.shard.assignment.shard] = None

    def entries_applied(self, host: str, replica: Replica, entries: Sequence[Entry]) -> None:
        self._check(host, _copy(replica), replica.check_invariants)

    def gate_passed(self, host: str, shard: Shard, worker: int, incarnation: int) -> None:
        self._changed[host, shard.assignment.shard] = None

    def host_gone(self, host: str) -> None:
        self._services.pop(host, None)

    def worker_encoded(
        self, host: str, session: Session, push: Push, gradient: Float32Array
    ) -> None:
        self._check(host, "worker", session.client.check_invariants)

    def worker_sent(
        self, host: str, session: Session, push: Push, result: ExchangeResult | BaseException
    ) -> None:
        self._check(host, "worker", session.client.check_invariants)

    def supervisor_ticked(self, host: str, supervisor: Supervisor) -> None:
        self._check(host, "supervisor", supervisor.state.check_invariants)

    def step(self) -> None:
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        for host, number in changed:
            service = self._services.get(host)
            hosted = None if service is None else service.hosted.get(number)
            if hosted is not None:
                self._check(host, f"shard {number}", hosted.check_invariants)

    def _look(self, host: str, shard: Shard) -> None:
        number = shard.assignment.shard
        self._check(host, f"shard {number}", shard.check_invariants)
        self._changed[host, number] = None

    def _check(self, host: str, what: str, check: Callable[[], None]) -> None:
        try:
            check()
        except AssertionError as error:
            self.violated(host, f"the {what} contradicts itself: {str(error) or _asserted(error)}")


def _copy(replica: Replica) -> str:
    return f"copy of shard {replica.shard.assignment.shard}"


def _asserted(error: AssertionError) -> str:
    """Where an assertion without words stands."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{place.line} ({Path(place.filename).name}:{place.lineno})"
