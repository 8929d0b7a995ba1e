"""The supervisor of a run, made ready from an experiment: model, data, checkpoint, record."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psedge.config import Experiment
from psedge.hosting import HostedServer, cancelled
from psedge.own_packages import own_allow_list
from psedge.protocol.address import Address
from psedge.protocol.errors import ConfigError, FrameError, PsedgeError
from psedge.protocol.ports import Clock, Storage, Transport
from psedge.supervisor.book import Book
from psedge.supervisor.checkpoint import Checkpoint, CheckpointStore
from psedge.supervisor.definition import DEFINITION_FILE, defined_model
from psedge.supervisor.model_state import ModelState
from psedge.supervisor.service import Supervisor
from psedge.supervisor.setup import RunSetup
from psedge.supervisor.start import nothing_left

#: How long an ended run stays to be asked, so that everybody hears how it ended.
LINGER_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Here:
    """Where the supervisor lives: pid and name of its machine, for people."""

    process: int = 0
    machine: str = ""


async def serve_run(
    supervisor: Supervisor, server: HostedServer | None, own: Address, here: Here = Here()
) -> None:
    """Supervise a run to its end, with `server` as one of those that hold its shards.

    server: None for a supervisor apart. own: where the supervisor answers, which is this server.
    """
    beating: asyncio.Future[Any] | None = None
    if server is not None:
        beating = asyncio.ensure_future(
            server.serve_for(own, process=here.process, machine=here.machine)
        )
    try:
        await _supervised(supervisor, beating)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(supervisor.everyone_knows(), LINGER_SECONDS)
    finally:
        await cancelled(beating)


async def _supervised(supervisor: Supervisor, beating: asyncio.Future[Any] | None) -> None:
    """Supervise; raises what keeps the own server from taking part, such as a foreign folder."""
    running: asyncio.Future[Any] = asyncio.ensure_future(supervisor.run())
    try:
        waits = {running} if beating is None else {running, beating}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if beating is not None and beating.done() and not running.done():
            # It ends without an error only where the run has ended.
            beating.result()
        await running
    finally:
        await cancelled(running)


async def make_supervisor(
    experiment: Experiment,
    *,
    folder: Path,
    storage: Storage,
    resume: bool,
    data: Path,
    clock: Clock,
    transport: Transport,
    token: str,
    notify: Callable[[str], None],
    beside: int | None,
    open_book: Callable[[], Awaitable[Book]] | None = None,
    here: Here = Here(),
    from_checkpoint: bool = False,
) -> Supervisor:
    """open_book: opens the run's book; called last for a new run, so that a mistake in the config
    leaves no folder behind. None: nothing outlives this process but checkpoints.

    beside: incarnation of the server that the supervisor lives in, None if there is none.
    from_checkpoint: a run that is still training is to go back to its checkpoint.

    Raises UserError when the model cannot be built or there is nothing to resume."""
    book = await open_book() if resume and open_book is not None else None
    try:
        checkpoint, model = None, None
        if resume:
            store = CheckpointStore(storage, experiment.checkpoint.keep, notify)
            checkpoint = await found_checkpoint(
                store, book, folder, notify, from_checkpoint=from_checkpoint, asked=experiment
            )
            model = await _definition(storage, experiment, book)
        setup = await asyncio.to_thread(_setup, experiment, folder, data, checkpoint, notify)
        setup = dataclasses.replace(
            setup,
            model=setup.model or model,
            process=here.process,
            machine=here.machine,
            from_checkpoint=from_checkpoint,
        )
        if book is None and open_book is not None:
            book = await open_book()
        return Supervisor(
            setup,
            storage,
            clock=clock,
            transport=transport,
            token=token,
            notify=notify,
            beside=beside,
            book=book,
        )
    except BaseException:
        if book is not None:
            await book.close()
        raise


async def found_checkpoint(
    store: CheckpointStore,
    book: Book | None,
    folder: Path,
    notify: Callable[[str], None],
    *,
    from_checkpoint: bool = False,
    asked: Experiment | None = None,
) -> Checkpoint | None:
    """Where to continue; for a run whose servers go on training, what to go back to without them.

    from_checkpoint: it is to go back there. asked: what a run that has finished is to go on with;
    None: it may end once more.

    Raises ConfigError when there is nothing to continue."""
    checkpoint = await store.latest()
    kept = book.restored() if book is not None else None
    if from_checkpoint and checkpoint is None:
        raise ConfigError(
            f"{folder} holds no checkpoint to go back to; start with --resume alone, or anew"
        )
    if kept is not None and kept.training:
        if from_checkpoint:
            return checkpoint
        notify("the run was training when its supervisor ended: looking for its servers")
        return checkpoint
    if book is not None and book.copied_from:
        notify(
            f"{folder} is a copy of {book.copied_from}: it goes on from its checkpoint, without "
            "the servers of that run"
        )
    if checkpoint is not None:
        finished = kept is not None and kept.record is not None and kept.record.ended == "finished"
        if asked is not None and finished and nothing_left(asked, checkpoint):
            raise ConfigError(
                f"the run in {folder} has finished, after {checkpoint.meta.samples:,} samples; to "
                "train on, ask for more, as with --set schedule.length=..."
            )
        notify(f"continuing after {checkpoint.meta.samples:,} samples")
    elif book is None or book.is_first or book.copied_from or (kept is not None and kept.record):
        raise ConfigError(f"{folder} holds no checkpoint to resume from; start without --resume")
    else:
        notify("training had not begun yet: it starts afresh")
    return checkpoint


async def _definition(
    storage: Storage, experiment: Experiment, book: Book | None
) -> ModelState | None:
    """The model that a library worker brought to a run that is still training."""
    kept = book.restored() if book is not None else None
    if experiment.model is not None or kept is None or not kept.training:
        return None
    try:
        return defined_model(await storage.read(DEFINITION_FILE), experiment)
    except (OSError, PsedgeError):
        return None


def _setup(
    experiment: Experiment,
    folder: Path,
    data: Path,
    checkpoint: Checkpoint | None,
    notify: Callable[[str], None],
) -> RunSetup:
    run = folder.name
    if experiment.model is None:
        return RunSetup(run, str(folder), experiment, _saved(checkpoint), checkpoint=checkpoint)
    # What builds and measures a model is imported only where there is one.
    from psedge import prepare
    from psedge.worker.objectives import resolve_loss, resolve_metrics

    model = prepare.built_model(experiment)
    state = continued(prepare.initial_state(experiment, model), checkpoint)
    train_samples, test = prepare.load_sources(experiment, data, notify)
    evaluator = None
    if test is not None:
        allow = own_allow_list(experiment)
        loss = resolve_loss(experiment.model, allow)
        metrics = resolve_metrics(experiment.model, allow)
        evaluator = prepare.evaluator_of(experiment, model, test, loss, metrics)
    return RunSetup(
        run,
        str(folder),
        experiment,
        state,
        train_samples,
        evaluator,
        checkpoint,
    )


def continued(fresh: ModelState, checkpoint: Checkpoint | None) -> ModelState:
    """Where a run begins: with a model just built, or where its checkpoint says.

    Raises ConfigError if the checkpoint is of another model.
    """
    saved = _saved(checkpoint)
    if saved is None:
        return fresh
    difference = fresh.layout.difference(saved.layout)
    if difference is not None:
        raise ConfigError(f"the config's model is not the checkpoint's: {difference}")
    # A changed rate or schedule in the config counts from here on.
    return dataclasses.replace(saved, settings=fresh.settings, groups=fresh.groups)


def _saved(checkpoint: Checkpoint | None) -> ModelState | None:
    """The state that a checkpoint holds."""
    if checkpoint is None:
        return None
    vectors, meta = checkpoint.vectors, checkpoint.meta
    fresh = ModelState(
        layout=meta.layout,
        settings=meta.settings,
        groups=meta.groups,
        parameters=vectors["parameters"],
        buffers=vectors["buffers"],
        counters=vectors["counters"],
        frozen=vectors["frozen"],
    )
    try:
        fresh.check()
    except FrameError as error:
        raise ConfigError(f"the checkpoint cannot be continued: {error}") from error
    return fresh.with_vectors(vectors, meta.shard_states)
