"""The stream of batches of one worker: claimed ranges, cut into steps, loaded ahead.

While one step computes, the next one's batches are loaded, and the next range is claimed before
the current one runs out. Ranges are consumed in the order in which they were claimed; the
servers' count of a worker's samples therefore tells which part of its data is done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from psedge.protocol.messages import ClaimReply
from psedge.protocol.ports import Clock
from psedge.worker.datasets.order import permuted
from psedge.worker.datasets.source import Source
from psedge.worker.endings import Rejoin

T = TypeVar("T")

#: Pause before asking again when the supervisor had no data and said so at once.
WAIT_SECONDS = 0.2


class Compute(Protocol):
    """Runs a function where it does not hold up the network, such as a thread of its own."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]: ...


class Claims(Protocol):
    """Where ranges come from; see `Session.claim`."""

    async def claim(self, *, idle: bool) -> ClaimReply: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs and targets of one forward pass, on the CPU."""

    inputs: Tensor
    targets: Tensor
    samples: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Which samples make one step: indices of each batch, and the seed of their augmentation."""

    batches: tuple[NDArray[np.int64], ...]
    seed: int


@dataclass(frozen=True, slots=True)
class FeedSettings:
    """accumulate: batches per step. seed: of the order and the augmentation."""

    batch_size: int
    accumulate: int
    seed: int


class BatchFeed:
    """Batches for step after step.

    load: where batches are made. check: called with each batch's targets before they are used.
    """

    def __init__(
        self,
        claims: Claims,
        source: Source,
        settings: FeedSettings,
        clock: Clock,
        load: Compute,
        check: Callable[[Tensor], None],
    ) -> None:
        self._claims = claims
        self._source = source
        self._settings = settings
        self._clock = clock
        self._load = load
        self._check = check
        self._plans: deque[StepPlan] = deque()
        self._loading: asyncio.Future[list[Batch]] | None = None
        self._claiming: asyncio.Future[None] | None = None
        self._claimed = asyncio.Event()
        self._claim_ahead = False
        #: Steps that are left when more is claimed, for the supervisor may be away.
        self._reserve = 1

    async def next(self) -> list[Batch] | None:
        """The batches of the next step, or None when what was claimed is used up.

        Raises DataError for samples that cannot be read or labels that are out of range.
        """
        self._load_ahead()
        if self._claiming is not None and self._claiming.done():
            await self._finish_claims()
        while self._loading is None and self._claiming is not None:
            await self._next_range(self._claiming)
            self._load_ahead()
        if self._loading is None:
            return None
        if self._needs_more and self._claiming is None:
            self._claiming = asyncio.ensure_future(self._claim_more())
        batches = await self._loading
        self._loading = None
        self._load_ahead()
        return batches

    async def refill(self) -> bool:
        """Claim more; only when all that was claimed has been pushed. False: the data is done."""
        while True:
            asked = self._clock.now()
            reply = await self._claims.claim(idle=True)
            if reply.state != "wait":
                return self._absorb(reply)
            if self._clock.now() - asked < WAIT_SECONDS:
                await self._clock.sleep(WAIT_SECONDS)

    async def reset(self) -> None:
        """Forget what was claimed: it was given back when the worker lost its membership."""
        pending = [task for task in (self._loading, self._claiming) if task is not None]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        self._plans.clear()
        self._loading = self._claiming = None
        self._claim_ahead = False

    @property
    def _needs_more(self) -> bool:
        return self._claim_ahead and len(self._plans) <= self._reserve

    async def _claim_more(self) -> None:
        """Range after range, until there are enough or it is somebody else's turn."""
        going_on = True
        while going_on:
            going_on = self._absorb(await self._claims.claim(idle=False)) and self._needs_more

    async def _next_range(self, claiming: asyncio.Future[None]) -> None:
        """Wait until there is one, or none will come."""
        self._claimed.clear()
        claimed = asyncio.ensure_future(self._claimed.wait())
        try:
            await asyncio.wait((claiming, claimed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            claimed.cancel()
        if claiming.done():
            await self._finish_claims()

    async def _finish_claims(self) -> None:
        assert self._claiming is not None
        claiming, self._claiming = self._claiming, None
        await claiming

    def _absorb(self, reply: ClaimReply) -> bool:
        """Whether it is a range."""
        if reply.state == "rejoin":
            raise Rejoin("the supervisor does not know this worker")
        found = reply.state == "range"
        self._claim_ahead = found or (reply.state == "wait" and reply.reserve > 0)
        if found:
            plans = plan_steps(reply, len(self._source), self._settings)
            self._plans.extend(plans)
            per_step = self._settings.batch_size * self._settings.accumulate
            self._reserve = max(1, len(plans) // 2, reply.reserve // per_step)
            self._claimed.set()
        return found

    def _load_ahead(self) -> None:
        if self._loading is None and self._plans:
            plan = self._plans.popleft()
            self._loading = asyncio.ensure_future(self._load(lambda: self._batches(plan)))

    def _batches(self, plan: StepPlan) -> list[Batch]:
        generator = torch.Generator().manual_seed(plan.seed)
        batches = []
        for indices in plan.batches:
            inputs, targets = self._source.batch(indices, generator)
            self._check(targets)
            batches.append(Batch(inputs, targets, len(indices)))
        return batches


def plan_steps(claimed: ClaimReply, samples: int, settings: FeedSettings) -> list[StepPlan]:
    """Cut a claimed range into steps.

    samples: of the data set. A last batch of one sample joins the batch before it, because batch
    normalisation cannot learn from a single sample.
    """
    epoch_start = claimed.start - claimed.start % samples
    positions = np.arange(claimed.start - epoch_start, claimed.stop - epoch_start, dtype=np.int64)
    indices = permuted(positions, samples, settings.seed, claimed.epoch)
    edges = list(range(0, len(indices), settings.batch_size))
    if len(edges) > 1 and len(indices) - edges[-1] == 1:
        edges.pop()
    batches = np.split(indices, edges[1:])
    plans = []
    for first in range(0, len(batches), settings.accumulate):
        position = claimed.start + edges[first]
        plans.append(
            StepPlan(
                tuple(batches[first : first + settings.accumulate]),
                _mixed_seed((settings.seed, claimed.epoch, position)),
            )
        )
    return plans


def _mixed_seed(numbers: Sequence[int]) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
