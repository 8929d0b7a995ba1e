"""What a claim gets: how many samples, how many a worker should hold, and whose turn it is."""

from __future__ import annotations

from psedge.protocol.messages import Claim
from psedge.supervisor import turns
from psedge.supervisor.data_plan import DataPlan, Range
from psedge.supervisor.data_pool import Pool
from psedge.supervisor.range_size import range_samples
from psedge.supervisor.run_state import RunState
from psedge.supervisor.worker_entry import WorkerEntry

#: A worker holds no more of them in `bsp`: each is in the row of the book that its claims write.
MOST_RANGES = 256


class Handout:
    """Of one run, whose plan there is.

    In `bsp` every range has as many samples as the config says, whatever the worker's rate, and is
    handed out when it is the worker's turn, so that a run that is repeated takes the same steps. A
    worker then holds many ranges, elsewhere one or two large ones.
    """

    def __init__(self, state: RunState, plan: DataPlan) -> None:
        self._state = state
        self._plan = plan
        self._joint = state.sync.mode == "bsp"
        data, worker = state.experiment.data, state.experiment.worker
        #: Samples of one push.
        self._push = (data.batch_size if data is not None else 1) * worker.accumulate
        self._least = self._push * state.experiment.cluster.range_batches

    def is_early(self, claim: Claim) -> bool:
        """Whether another worker has to claim before this one."""
        pool = self._shared_pool(claim)
        if pool is None or claim.idle or not pool.unclaimed:
            return False
        return turns.is_early(pool, (claim.worker, claim.incarnation), self._others(claim))

    def claim(self, claim: Claim, entry: WorkerEntry) -> Range | None:
        """See `DataPlan.claim`, and what that raises. entry: of the worker."""
        pool = self._shared_pool(claim)
        at_least = 0
        if pool is not None and claim.idle:
            at_least = turns.present_step(pool, self._others(claim), self._push)
        samples = self._least if self._joint else self._wanted(entry)
        found = self._plan.claim(claim.worker, claim.incarnation, samples, claim.claim)
        if found is not None and pool is not None:
            member = claim.worker, claim.incarnation
            turns.provide(pool, member, found.stop - found.start, self._push, at_least)
        return found

    def reserve(self, entry: WorkerEntry) -> int:
        """See `ClaimReply`."""
        if not self._joint:
            return 0
        return min(self._wanted(entry), MOST_RANGES * self._least) - self._least

    def _wanted(self, entry: WorkerEntry) -> int:
        """Samples that a worker needs to go on for a while."""
        state = self._state
        if entry.heartbeat is None:
            return self._least
        return range_samples(
            self._least,
            self._push,
            entry.heartbeat.rate_samples_per_second,
            state.rate_samples_per_second,
            self._plan.unclaimed(entry.worker),
        )

    def _shared_pool(self, claim: Claim) -> Pool | None:
        """Where workers take turns for this claim; None: nowhere, or it was answered before."""
        if not self._joint or self._plan.placement != "shared":
            return None
        pool = self._plan.pool_of(claim.worker)
        if pool is None:
            return None
        repeated = claim.claim and pool.repeated(claim.worker, claim.incarnation, claim.claim)
        return None if repeated else pool

    def _others(self, claim: Claim) -> list[turns.Member]:
        """Who else needs samples now or soon."""
        return [
            (entry.worker, entry.incarnation)
            for entry in self._state.membership.live()
            if entry.loader and entry.state == "alive" and entry.worker != claim.worker
        ]
