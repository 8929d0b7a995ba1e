"""What every checker of an invariant is: hooks that the watch calls, and a way to tell.

A checker keeps books of its own, from what it is told, and compares them with what the production
code says and holds. It changes nothing that it is shown, and keeps no reference to arrays that
change. Invariants have the numbers of the design; 0 is a core that contradicts itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from psedge.compression.codec import Float32Array
from psedge.protocol.log_entry import Entry
from psedge.protocol.messages import ClaimReply
from psedge.protocol.shards import Members, ShardState
from psedge.protocol.status import Status
from psedge.protocol.wire import Header
from psedge.server.push import Outcome
from psedge.server.push import Push as ServerPush
from psedge.server.replica import Replica
from psedge.server.service import ShardService
from psedge.server.shard import Shard
from psedge.simulation.outcome import Violation
from psedge.supervisor.service import Supervisor
from psedge.worker.client import ExchangeResult
from psedge.worker.push import Push
from psedge.worker.session import Session


class Checker:
    """Every hook does nothing here; a checker overrides those that it learns from.

    report: where a violation goes. now: virtual seconds.
    """

    invariant: ClassVar[int] = 0

    def __init__(self, report: Callable[[Violation], None], now: Callable[[], float]) -> None:
        self._report = report
        self._now = now

    def violated(self, node: str, text: str) -> None:
        """The invariant does not hold, and this is how it shows."""
        self._report(Violation(self._now(), self.invariant, node, text))

    def server_opened(self, host: str, service: ShardService) -> None:
        """A server process has begun, with a service that holds no shard yet."""

    def shard_made(self, host: str, shard: Shard, state: ShardState | None) -> None:
        """A server has made a copy of a shard, which nobody has pushed to yet.

        state: where it continues: an image if it has accounts, else a checkpoint; None for a fresh
        one. Entries of a log that lay on a disk go into it after this and before anything else.
        """

    def shard_imaged(
        self, host: str, shard: Shard, state: ShardState, arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        """`Shard.image` has returned: a copy of this one is about to be made, or kept on a disk."""

    def replica_changed(self, host: str, replica: Replica, what: str) -> None:
        """A copy was `assigned`, `installed`, `recovered`, `promoted`, `sealed`, `dropped`, or
        follows another `reign`."""

    def entries_applied(self, host: str, replica: Replica, entries: Sequence[Entry]) -> None:
        """A backup or learner has applied what its primary sent it."""

    def push_answered(self, host: str, replica: Replica, header: Header) -> None:
        """A server tells a worker what became of its push: from now on that is acknowledged.

        header: of the reply.
        """

    def members_set(self, host: str, shard: Shard, members: Members) -> None:
        """`Shard.set_members` has returned."""

    def shard_pushing(self, host: str, shard: Shard, push: ServerPush) -> None:
        """`Shard.push` is about to be called."""

    def shard_pushed(self, host: str, shard: Shard, push: ServerPush, outcome: Outcome) -> None:
        """`Shard.push` has returned."""

    def shard_raised(self, host: str, shard: Shard, push: ServerPush, error: Exception) -> None:
        """`Shard.push` has raised."""

    def shard_state(
        self, host: str, shard: Shard, state: ShardState, arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        """`Shard.state` has returned: a checkpoint, or a part of one, is being made."""

    def gate_passed(self, host: str, shard: Shard, worker: int, incarnation: int) -> None:
        """A gated reply with content leaves: this worker may take its next step."""

    def noted(self, host: str, text: str) -> None:
        """A program on a host has told people something."""

    def host_gone(self, host: str) -> None:
        """The process on a host has ended: by itself, by a crash, by a power cut."""

    def worker_joined(self, host: str, session: Session) -> None:
        """A session has come in, for the first time or again, and taken over the parameters."""

    def batch_made(self, host: str, indices: NDArray[np.int64]) -> None:
        """These samples go into the gradient that is encoded next."""

    def range_claimed(self, host: str, session: Session, reply: ClaimReply) -> None:
        """The supervisor has answered a claim."""

    def worker_encoded(
        self, host: str, session: Session, push: Push, gradient: Float32Array
    ) -> None:
        """`ShardClient.encode` has returned. gradient: what it was given."""

    def worker_sent(
        self, host: str, session: Session, push: Push, result: ExchangeResult | BaseException
    ) -> None:
        """`ShardClient.send` has returned, or raised; a process that crashes tells nothing."""

    def worker_took(self, host: str, session: Session) -> None:
        """`ShardClient.take` has brought the vectors to where the received replies lead."""

    def supervisor_ticked(self, host: str, supervisor: Supervisor) -> None:
        """A round of the supervisor's watch has ended."""

    def run_started(self, host: str, supervisor: Supervisor) -> None:
        """A supervisor has begun, afresh or from a checkpoint."""

    def run_ended(self, host: str, supervisor: Supervisor, status: Status) -> None:
        """A supervisor has come to the end of its run, in order."""

    def step(self) -> None:
        """A handler or a worker's step has ended. Called often: checks here must be cheap."""
