"""The supervisor of a run, made ready from an experiment: model, data, checkpoint, record."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psedge.config import Experiment
from psedge.hosting import HostedServer, cancelled
from psedge.own_packages import own_allow_list
from psedge.protocol.address import Address
from psedge.protocol.errors import ConfigError, FrameError
from psedge.protocol.ports import Clock, Storage, Transport
from psedge.supervisor.checkpoint import Checkpoint, CheckpointStore
from psedge.supervisor.model_state import ModelState
from psedge.supervisor.service import Supervisor
from psedge.supervisor.setup import RunSetup

#: How long an ended run stays to be asked, so that everybody hears how it ended.
LINGER_SECONDS = 3.0


async def serve_run(supervisor: Supervisor, server: HostedServer, own: Address) -> None:
    """Supervise a run to its end, with `server` as one of those that hold its shards.

    own: where the supervisor answers, which is this server.
    """
    beating: asyncio.Future[Any] = asyncio.ensure_future(server.serve_for(own))
    try:
        await supervisor.run()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(supervisor.everyone_knows(), LINGER_SECONDS)
    finally:
        await cancelled(beating)


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
    beside: int,
) -> Supervisor:
    """beside: incarnation of the server that the supervisor lives in.

    Raises UserError when the model cannot be built or there is nothing to resume."""
    store = CheckpointStore(storage, experiment.checkpoint.keep, notify)
    checkpoint = await _checkpoint(store, folder, notify) if resume else None
    setup = await asyncio.to_thread(_setup, experiment, folder, data, checkpoint, notify)
    return Supervisor(
        setup,
        storage,
        clock=clock,
        transport=transport,
        token=token,
        notify=notify,
        beside=beside,
    )


async def _checkpoint(
    store: CheckpointStore, folder: Path, notify: Callable[[str], None]
) -> Checkpoint:
    checkpoint = await store.latest()
    if checkpoint is None:
        raise ConfigError(f"{folder} holds no checkpoint to resume from; start without --resume")
    notify(f"continuing after {checkpoint.meta.samples:,} samples")
    return checkpoint


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
