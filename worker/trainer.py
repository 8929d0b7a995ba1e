"""Training as a config describes it: claim data, compute a gradient, exchange it, again.

With `overlap` the exchange of one step runs while the next one computes, on parameters that are
one exchange older; without, a step computes on what its predecessor's exchange brought back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from psedge.protocol.errors import ModelError, PsedgeError, TrainingError
from psedge.protocol.ports import Clock
from psedge.worker.client import ExchangeResult, Push, Rejoin, StopTraining
from psedge.worker.config import DataConfig, ModelConfig, WorkerConfig
from psedge.worker.datasets.source import Source
from psedge.worker.feed import Batch, BatchFeed, Compute, FeedSettings
from psedge.worker.finite_check import FiniteCheck
from psedge.worker.gradient import Step
from psedge.worker.label_check import LabelCheck
from psedge.worker.local_steps import LocalSteps
from psedge.worker.pace import Pace
from psedge.worker.session import Session

T = TypeVar("T")


class Plan(msgspec.Struct, frozen=True):
    """The parts of an experiment that a worker acts on; unknown keys belong to other rooms."""

    model: ModelConfig
    data: DataConfig
    worker: WorkerConfig = WorkerConfig()
    seed: int = 0


class Trainer:
    """Trains one model on one source until the data is done or the session stops.

    step: computes gradients of `model`.
    compute: where forward and backward run, one call at a time. load: where batches are made.
    pace: 3.0 makes its computing three times slower, to try out a mixed cluster on one machine.
    """

    def __init__(
        self,
        session: Session,
        plan: Plan,
        model: nn.Module,
        source: Source,
        step: Step,
        clock: Clock,
        *,
        compute: Compute,
        load: Compute,
        pace: float = 1.0,
    ) -> None:
        self._session = session
        self._plan = plan
        self._model = model
        self._source = source
        self._clock = clock
        self._compute = compute
        self._pace = Pace(pace)
        self._step = step
        self._labels = LabelCheck(source, plan.model)
        settings = FeedSettings(plan.data.batch_size, plan.worker.accumulate, plan.seed)
        self._feed = BatchFeed(session, source, settings, clock, load, self._labels.check)
        self._local: LocalSteps | None = None
        self._exchange: asyncio.Future[ExchangeResult] | None = None
        self._outgoing = np.empty_like(session.binding.gradients) if plan.worker.overlap else None
        self._finite = FiniteCheck()

    def probe(self) -> None:
        """Put two samples through the model, without learning from them.

        Raises DataError when labels do not fit the model's outputs, ModelError when the model
        cannot take the data at all. Call before joining, so that no run sees a broken worker.
        """
        indices = np.arange(min(2, len(self._source)), dtype=np.int64)
        inputs, targets = self._source.batch(indices, None)
        was_training = self._model.training
        self._model.eval()
        try:
            with torch.no_grad():
                output = self._step.forward(inputs)
                self._labels.learn(output)
                self._labels.check(targets)
                self._step.loss(output, targets)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise self._misfit(inputs, targets, error) from error
        finally:
            self._model.train(was_training)

    async def run(self) -> None:
        """Train, then leave the run. The session must have been started.

        Raises DataError or TrainingError when training cannot go on; the supervisor is told.
        """
        failure = ""
        try:
            if not self._labels.ready:
                await self._compute(self.probe)
            torch.manual_seed(self._plan.seed + self._session.joined.worker)
            await self._train()
        except StopTraining:
            pass
        except PsedgeError as error:
            failure = str(error)
            raise
        finally:
            await self._abandon()
            await self._session.leave(failure)

    async def _train(self) -> None:
        more = True
        while more and not self._session.stopping:
            try:
                more = await self._one_round()
            except Rejoin:
                await self._abandon()
                await self._session.rejoin()
        await self._finish_exchange()

    async def _one_round(self) -> bool:
        """From claimed data to a push on its way. False: no data is left."""
        samples = await self._gradient()
        if not samples:
            await self._finish_exchange()
            return await self._feed.refill()
        if self._outgoing is None:
            push = await self._compute(lambda: self._session.encode(samples))
            self._finite.judge(await self._session.send(push))
        else:
            await self._finish_exchange()
            push = await self._compute(lambda: self._encode_and_take(samples))
            self._exchange = asyncio.ensure_future(self._session.send(push))
        return True

    async def _gradient(self) -> int:
        """Leave a gradient in the binding; returns the samples it stands for, 0 without data."""
        steps = self._session.joined.sync.local_steps
        if steps > 1:
            return await self._local_gradient(steps)
        batches = await self._feed.next()
        if batches is None:
            return 0
        await self._paced(lambda: self._backward(batches))
        return _samples(batches)

    async def _local_gradient(self, steps: int) -> int:
        samples = 0
        for index in range(steps):
            batches = await self._feed.next()
            if batches is None or self._session.stopping:
                break
            await self._paced(partial(self._local_step, batches, first=index == 0))
            samples += _samples(batches)
        if samples and self._local is not None:
            await self._compute(self._local.finish)
        return samples

    def _backward(self, batches: Sequence[Batch]) -> None:
        if self._outgoing is None:
            self._session.take()
        self._session.metrics.add_loss(self._step(batches), _samples(batches))
        self._session.binding.read_gradients()

    def _local_step(self, batches: Sequence[Batch], *, first: bool) -> None:
        if first:
            self._session.take()
            self._begin_local()
        self._session.metrics.add_loss(self._step(batches), _samples(batches))
        if self._local is not None:
            self._local.step(self._session.lr_factor)

    def _begin_local(self) -> None:
        settings = self._session.joined.local_optimizer
        if settings is None:
            raise TrainingError("the supervisor asks for local steps and sent no optimizer")
        if self._local is None:
            self._local = LocalSteps(self._session.binding, settings)
        self._local.begin()

    def _encode_and_take(self, samples: int) -> Push:
        """The gradient's version is that of the parameters before the reply is taken over."""
        assert self._outgoing is not None
        np.copyto(self._outgoing, self._session.binding.gradients)
        push = self._session.encode(samples, self._outgoing)
        self._session.take()
        return push

    async def _finish_exchange(self) -> None:
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            self._finite.judge(await exchange)

    async def _abandon(self) -> None:
        """Give up what is on its way: the exchange, and batches that were claimed."""
        if self._exchange is not None:
            self._exchange.cancel()
            await asyncio.gather(self._exchange, return_exceptions=True)
            self._exchange = None
        await self._feed.reset()

    async def _paced(self, function: Callable[[], T]) -> T:
        started = self._clock.now()
        result = await self._compute(function)
        elapsed = self._clock.now() - started
        pause = self._pace.pause(elapsed)
        if pause > 0.0:
            await self._clock.sleep(pause)
        self._session.metrics.compute_seconds += elapsed + pause
        return result

    def _misfit(self, inputs: Tensor, targets: Tensor, error: Exception) -> ModelError:
        return ModelError(
            f"the model {self._plan.model.factory} cannot be trained on {self._source.name}, whose "
            f"batches are {list(inputs.shape)} {inputs.dtype} with targets {list(targets.shape)} "
            f"{targets.dtype}: {error}"
        )


def _samples(batches: Sequence[Batch]) -> int:
    return sum(batch.samples for batch in batches)
