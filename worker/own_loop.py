"""One step of a loop that a user wrote: what happens between `backward()` and the next forward.

Three ways, as the run's config says: push each gradient and wait for the reply; with `overlap` let
the exchange run while the loop computes its next gradient; with local steps take several steps of
an optimizer here and push the change.
"""

from __future__ import annotations

import asyncio

import numpy as np

from psedge.protocol.errors import TrainingError
from psedge.worker.client import ExchangeResult, Rejoin, StopTraining
from psedge.worker.local_steps import LocalSteps
from psedge.worker.session import Session


class OwnLoop:
    """Steps of a started session. `step` after each backward pass, `finish` before leaving."""

    def __init__(self, session: Session, *, overlap: bool) -> None:
        self._session = session
        self._outgoing = np.empty_like(session.binding.gradients) if overlap else None
        self._exchange: asyncio.Future[ExchangeResult] | None = None
        self._local: LocalSteps | None = None
        self._steps = 0
        self._samples = 0
        if session.joined.sync.local_steps > 1:
            self._begin_local()

    async def step(self, samples: int) -> ExchangeResult | None:
        """Use the model's gradients, which stand for `samples` samples, and zero them.

        Returns what the servers made of a push, or None when there was no answer to one: in the
        middle of local steps, after the first push with overlap, after joining again.
        Raises StopTraining, with the gradients as they were, when the run wants this worker to end.
        """
        if self._session.stop_reason is not None:
            raise StopTraining(self._session.stop_reason)
        if self._local is not None:
            return await self._local_step(self._local, samples)
        if self._outgoing is None:
            return await self._session.step(samples)
        try:
            result = await self._answer()
            self._session.binding.read_gradients()
            np.copyto(self._outgoing, self._session.binding.gradients)
            push = self._session.encode(samples, self._outgoing)
            self._session.take()
            self._exchange = asyncio.ensure_future(self._session.send(push))
        except Rejoin:
            result = None
            await self._session.rejoin()
        self._session.binding.zero_gradients()
        return result

    async def finish(self) -> None:
        """Push what is left and wait for what is on its way; the model then has the latest."""
        if self._local is not None and self._samples:
            await self._push_change(self._local)
        if self._exchange is not None:
            await self._answer()
            self._session.take()

    async def _answer(self) -> ExchangeResult | None:
        exchange, self._exchange = self._exchange, None
        return await exchange if exchange is not None else None

    async def _local_step(self, local: LocalSteps, samples: int) -> ExchangeResult | None:
        local.step(self._session.lr_factor)
        self._session.binding.zero_gradients()
        self._steps += 1
        self._samples += samples
        if self._steps < self._session.joined.sync.local_steps:
            return None
        return await self._push_change(local)

    async def _push_change(self, local: LocalSteps) -> ExchangeResult | None:
        local.finish()
        samples, self._samples, self._steps = self._samples, 0, 0
        result = None
        try:
            result = await self._session.send(self._session.encode(samples))
            self._session.take()
        except Rejoin:
            await self._session.rejoin()
        local.begin()
        return result

    def _begin_local(self) -> None:
        settings = self._session.joined.local_optimizer
        if settings is None:
            raise TrainingError("the supervisor asks for local steps and sent no optimizer")
        self._local = LocalSteps(self._session.binding, settings)
        self._local.begin()
