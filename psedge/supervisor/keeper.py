"""The record of a run: figures every few seconds, checkpoints, measurements on the test data.

Checkpoints and measurements run beside training, one at a time; the last ones are waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from psedge.protocol.errors import PsedgeError, TrainingError
from psedge.protocol.ports import Buffer, Clock
from psedge.protocol.status import Evaluation, Status
from psedge.protocol.version import __version__
from psedge.supervisor.checkpoint import CheckpointMeta, CheckpointStore
from psedge.supervisor.data_plan import DataPlan, PlanState
from psedge.supervisor.figures import recorded_figures
from psedge.supervisor.model_state import ModelState
from psedge.supervisor.recorder import EvaluationRow, NoteRow, ProgressRow, Recorder
from psedge.supervisor.result import result_of
from psedge.supervisor.run_state import RunState
from psedge.supervisor.setup import RunSetup
from psedge.supervisor.shard_map import join_arrays

#: Seconds over which the rate of a run is measured.
RATE_WINDOW_SECONDS = 10.0
#: A trained model that cannot be written, because the disk is full, waits so long for room.
ROOM_SECONDS = 600.0
ROOM_POLL_SECONDS = 2.0
#: How long the end of a run waits for the book to take it in.
END_SECONDS = 5.0


class Keeper:
    """Decides when to record and does it; owns the run folder through recorder and store."""

    def __init__(
        self, setup: RunSetup, recorder: Recorder, store: CheckpointStore, clock: Clock
    ) -> None:
        self.evaluation: Evaluation | None = None
        self.best_accuracy: float | None = None
        #: As the shards held it when it was last gathered.
        self.model: ModelState | None = None
        #: Samples of the checkpoint that was written last; None: there is none.
        self.checkpointed: int | None = None
        #: The data plan as it was then.
        self._plan: PlanState | None = None
        self._setup = setup
        self._recorder = recorder
        self._store = store
        self._clock = clock
        self._seconds_before = 0.0
        self._checkpointed_epochs = 0.0
        self._checkpointed_at = 0.0
        self._evaluated_epochs = 0.0
        self._evaluated_samples = -1
        self._work: asyncio.Task[None] | None = None
        self._passed: deque[tuple[float, int]] = deque()
        #: Of the row that an earlier supervisor recorded last: samples, and when.
        self._last_samples = 0
        self._last_timestamp: float | None = None
        self._take_up_checkpoint()

    async def started(self, state: RunState) -> None:
        """Training has begun, afresh or from the checkpoint."""
        self._take_up_checkpoint()
        checkpoint = self._setup.checkpoint
        resumed = checkpoint.meta.samples if checkpoint is not None else None
        await self._recorder.start(state.experiment, resumed)
        self._checkpointed_epochs = self._evaluated_epochs = state.epochs_done()
        self._checkpointed_at = self._clock.now()

    async def attach(self, state: RunState) -> None:
        """Go on with the record of an earlier supervisor."""
        record = state.record
        assert record is not None
        self._seconds_before = record.seconds
        for row in await self._recorder.go_on():
            if isinstance(row, ProgressRow):
                self._seconds_before = row.seconds
                self._last_samples, self._last_timestamp = row.samples, row.timestamp
                state.recorded = recorded_figures(row)
            elif isinstance(row, EvaluationRow):
                self.evaluation = row.evaluation
                self._evaluated_epochs, self._evaluated_samples = row.epoch, row.samples
                if row.evaluation.accuracy is not None:
                    self.best_accuracy = max(self.best_accuracy or 0.0, row.evaluation.accuracy)
        checkpoint, per_epoch = self._setup.checkpoint, state.samples_per_epoch()
        if checkpoint is not None and per_epoch:
            self._checkpointed_epochs = checkpoint.meta.samples / per_epoch
        self._checkpointed_at = self._clock.now()

    def attached(self, state: RunState, *, went_on: bool) -> None:
        """All servers are there. went_on: they trained all the time, so that it counts."""
        since, self._last_timestamp = self._last_timestamp, None
        if went_on and since is not None and state.started_at is not None:
            here = self._clock.now() - state.started_at
            away = self._clock.timestamp() - since - here
            self._seconds_before += max(away, 0.0)
        self._passed.clear()

    @property
    def samples_recorded(self) -> int:
        """What an earlier supervisor put on record last, where this one goes on."""
        return self._last_samples

    async def recorded(self) -> int:
        """Samples visited when that was last put on record, before a start from a checkpoint."""
        if self._setup.checkpoint is None:
            return 0
        rows = await self._recorder.go_on()
        return max((row.samples for row in rows if isinstance(row, ProgressRow)), default=0)

    async def defined(self, body: Buffer) -> None:
        """Keep the model that a worker brought; body: of its Define."""
        await self._recorder.define(body)

    def seconds(self, state: RunState, now: float) -> float:
        """Training time so far, earlier processes of a resumed run included."""
        if state.started_at is None:
            return self._seconds_before
        until = state.ended_at if state.ended_at is not None else now
        return self._seconds_before + until - state.started_at

    def rate(self) -> float:
        """Samples per second that were applied, over the last few seconds."""
        if len(self._passed) < 2:
            return 0.0
        (first_at, first), (last_at, last) = self._passed[0], self._passed[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0

    async def tick(self, state: RunState, now: float) -> None:
        """Called once a heartbeat while training. Raises what the background work raised."""
        if state.attaching:
            # What is known of the shards is not what they have.
            return
        self._note_rate(state, now)
        await self._record_progress(state, now)
        if self._work is not None and self._work.done():
            work, self._work = self._work, None
            try:
                work.result()
            except TrainingError as error:
                # A server that is lost for good is missed by its lease, and that ends the run.
                state.note(f"no checkpoint this time: {error}")
        if self._work is None:
            checkpoint, evaluate = self._due(state, now)
            if checkpoint or evaluate:
                self._work = asyncio.create_task(self._keep(state, checkpoint, evaluate))

    async def last(self, state: RunState, now: float, *, evaluate: bool) -> str:
        """The final checkpoint, and measurement if asked for.

        Returns why the checkpoint is not on disk, or nothing. While nobody asks for the end, it
        is tried again for some time: without it the trained model is lost.
        """
        if self._work is not None:
            await asyncio.gather(self._work, return_exceptions=True)
            self._work = None
        self._note_rate(state, now)
        await self._record_progress(state, now)
        model = await self._gather(state)
        saved = await self._save(state, model)
        if evaluate:
            await self._evaluate(state, model)
        if not saved and state.stop_reason is None:
            state.note(
                f"the trained model is not on disk yet: make room for it in {state.setup.folder} "
                f"within {ROOM_SECONDS / 60:.0f} minutes; Ctrl-C gives it up"
            )
        patience = self._clock.now() + ROOM_SECONDS
        while not saved and state.stop_reason is None and self._clock.now() < patience:
            await self._clock.sleep(ROOM_POLL_SECONDS)
            saved = await self._save(state, model)
        if saved:
            return ""
        return f"the last checkpoint could not be written: {self._store.problem}"

    async def ended(self, state: RunState, status: Status) -> None:
        """Write what the run came to."""
        if self._work is not None:
            self._work.cancel()
        resumed = None if state.record is None else state.record.resumed_samples
        await self._recorder.finish(result_of(status, self._setup, self.best_accuracy, resumed))
        with contextlib.suppress(asyncio.TimeoutError, TrainingError):
            await asyncio.wait_for(state.save_end(), END_SECONDS)

    def _due(self, state: RunState, now: float) -> tuple[bool, bool]:
        config = state.experiment.checkpoint
        epochs = state.epochs_done()
        checkpoint = (
            epochs - self._checkpointed_epochs >= config.every_epochs
            or now - self._checkpointed_at >= config.every_seconds
        )
        evaluate = (
            self._setup.evaluator is not None
            and epochs - self._evaluated_epochs >= config.evaluate_every_epochs
        )
        return checkpoint, evaluate

    async def _keep(self, state: RunState, checkpoint: bool, evaluate: bool) -> None:
        epochs = state.epochs_done()
        if checkpoint:
            every = state.experiment.checkpoint.every_epochs
            self._checkpointed_epochs = epochs - epochs % every
            self._checkpointed_at = self._clock.now()
        if evaluate:
            every = state.experiment.checkpoint.evaluate_every_epochs
            self._evaluated_epochs = epochs - epochs % every
        model = await self._gather(state)
        if checkpoint:
            await self._save(state, model)
        if evaluate:
            await self._evaluate(state, model)

    async def _save(self, state: RunState, model: ModelState) -> bool:
        saved = await self._store.save(self._meta(state, model), model.arrays())
        if saved:
            self.checkpointed = model.samples_seen()
        return saved

    async def _evaluate(self, state: RunState, model: ModelState) -> None:
        """Measure, unless nothing has changed since the last time."""
        samples = model.samples_seen()
        if self._setup.evaluator is None or samples == self._evaluated_samples:
            return
        self._evaluated_samples = samples
        try:
            evaluation = await self._setup.evaluator(model)
        except Exception as error:
            # Whatever ails the test data, or the user's metric, training is not at fault.
            what = str(error) if isinstance(error, PsedgeError) else repr(error)
            state.note(f"the model could not be measured: {what}")
            return
        self.evaluation = evaluation
        accuracy = evaluation.accuracy
        if accuracy is not None:
            self.best_accuracy = max(self.best_accuracy or 0.0, accuracy)
        per_epoch = state.samples_per_epoch()
        await self._recorder.record(
            EvaluationRow(
                samples=samples,
                seconds=self.seconds(state, self._clock.now()),
                epoch=samples / per_epoch if per_epoch else 0.0,
                evaluation=evaluation,
            )
        )

    async def _gather(self, state: RunState) -> ModelState:
        assert state.model is not None
        if state.plan is not None:
            state.plan.remember(True)
        try:
            found = await state.fleet.states()
        except TrainingError:
            if state.plan is not None:
                state.plan.remember(False)
            raise
        vectors = join_arrays(
            [order.assignment for order, _ in found], [arrays for _, arrays in found]
        )
        states = tuple(order.state for order, _ in found if order.state is not None)
        self.model = state.model.with_vectors(vectors, states)
        if state.plan is not None:
            self._plan = _plan_of(state.plan, self.model)
        return self.model

    def _meta(self, state: RunState, model: ModelState) -> CheckpointMeta:
        totals = state.figures()
        return CheckpointMeta(
            psedge=__version__,
            run=state.setup.run,
            samples=model.samples_seen(),
            layout=model.layout,
            version=max(shard.version for shard in model.shard_states),
            term=max((reign.term for reign in state.fleet.table.reigns()), default=0),
            plan=self._plan,
            members=state.membership.export(),
            settings=model.settings,
            groups=model.groups,
            shard_states=model.shard_states,
            figures={
                "seconds": self.seconds(state, self._clock.now()),
                "best_accuracy": self.best_accuracy,
                "bytes_pushed": totals.bytes_pushed,
                "bytes_pulled": totals.bytes_pulled,
            },
            losses=state.journal.losses(),
        )

    def _note_rate(self, state: RunState, now: float) -> None:
        applied = max((report.samples_applied for report in state.fleet.shard_reports()), default=0)
        self._passed.append((now, applied))
        while now - self._passed[0][0] > RATE_WINDOW_SECONDS and len(self._passed) > 2:
            self._passed.popleft()
        state.rate_samples_per_second = self.rate()

    async def _record_progress(self, state: RunState, now: float) -> None:
        figures = state.figures()
        seconds = self.seconds(state, now)
        for text in state.take_new_notes():
            await self._recorder.record(NoteRow(figures.samples_seen, seconds, text))
        await self._recorder.record(
            ProgressRow(
                samples=figures.samples_seen,
                seconds=seconds,
                epoch=state.epochs_done(),
                train_loss=state.losses.take(),
                rate_samples_per_second=self.rate(),
                lr_factor=state.lr_factor(),
                pushes_applied=figures.pushes_applied,
                pushes_refused=figures.pushes_refused,
                staleness_max=figures.staleness_max,
                lag_max=figures.lag_max,
                contributors=figures.contributors,
                samples_applied=figures.samples_applied,
                bytes_pushed=figures.bytes_pushed,
                bytes_pulled=figures.bytes_pulled,
                workers=state.membership.live_count,
            )
        )

    def _take_up_checkpoint(self) -> None:
        checkpoint = self._setup.checkpoint
        if checkpoint is not None:
            self.checkpointed = checkpoint.meta.samples
            figures = checkpoint.meta.figures
            self._seconds_before = float(figures.get("seconds", 0.0))
            self.best_accuracy = figures.get("best_accuracy")


def _plan_of(plan: DataPlan, model: ModelState) -> PlanState:
    """The plan with the very pushes that the gathered parameters contain.

    Some of them it may not have heard of yet. Others came after the first shard's part, while those
    of slower servers were on their way; whoever resumes has not trained on their samples.
    """
    workers = model.shard_states[0].workers
    for progress in workers:
        plan.consumed(progress.worker, progress.samples, progress.incarnation)
    seen = {(progress.worker, progress.incarnation): progress.samples for progress in workers}
    state = plan.export(seen)
    plan.remember(False)
    return state
