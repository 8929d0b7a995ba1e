"""The run in one message: what `psedge status` and the progress view show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from psedge.protocol.shards import Progress
from psedge.protocol.status import CopyStatus, ServerStatus, ShardStatus, Status, WorkerStatus
from psedge.supervisor.decrees import holders_of
from psedge.supervisor.keeper import Keeper
from psedge.supervisor.membership import WorkerEntry
from psedge.supervisor.run_state import RunState
from psedge.supervisor.server_list import ServerEntry
from psedge.supervisor.waiting import waiting_for

#: Events of the journal that a status shows.
EVENTS_SHOWN = 50


def status_of(state: RunState, keeper: Keeper, now: float, *, rows: bool = True) -> Status:
    """Everything a person wants to know about a run at time `now`.

    rows: with one for each worker, which takes as long as there are many.
    """
    figures = state.figures()
    config = state.experiment
    per_epoch = state.samples_per_epoch()
    total = state.plan.total if state.plan is not None else 0
    epochs = math.ceil(total / per_epoch) if per_epoch else 0
    model = state.model
    return Status(
        run=state.setup.run,
        phase=state.phase,
        reason=state.reason,
        folder=state.setup.folder,
        model=config.model.factory if config.model is not None else "",
        parameters=model.layout.length("parameter") if model is not None else 0,
        mode=_mode(state),
        seconds=keeper.seconds(state, now),
        epoch=min(int(state.epochs_done()) + 1, epochs) if epochs else 0,
        epochs=epochs,
        epochs_done=state.epochs_done(),
        samples=_samples(state, figures.samples_seen),
        samples_applied=figures.samples_applied,
        samples_total=total,
        rate_samples_per_second=_rate(state, keeper, figures.samples_applied, now),
        train_loss=state.losses.recent,
        evaluation=keeper.evaluation,
        best_accuracy=keeper.best_accuracy,
        pushes_applied=figures.pushes_applied,
        pushes_refused=figures.pushes_refused,
        staleness_max=figures.staleness_max,
        lag_max=figures.lag_max,
        bytes_pushed=figures.bytes_pushed,
        bytes_pulled=figures.bytes_pulled,
        workers=tuple(_worker_statuses(state, now)) if rows else (),
        servers=tuple(_server_status(entry, state, now) for entry in _shown(state)),
        shards=_shard_statuses(state),
        notes=tuple(state.notes),
        journal=state.journal.latest(EVENTS_SHOWN),
        waiting_for=waiting_for(state),
        process=state.setup.process,
        machine=state.setup.machine,
    )


def _shown(state: RunState) -> list[ServerEntry]:
    """A server that was started again is shown once, however often that was."""
    return state.fleet.list.lasting(holders_of(state.fleet.table.reigns()))


def _samples(state: RunState, seen: int) -> int:
    """Before training has begun, those of the checkpoint that it will go on from."""
    checkpoint = state.setup.checkpoint
    return seen if checkpoint is None or state.record is not None else checkpoint.meta.samples


def _rate(state: RunState, keeper: Keeper, applied: int, now: float) -> float:
    """Of the last seconds while training goes on, of all of it once it has ended."""
    if not state.ended:
        return keeper.rate() if state.phase == "training" and not state.waits else 0.0
    seconds = keeper.seconds(state, now)
    return applied / seconds if seconds > 0 else 0.0


def _mode(state: RunState) -> str:
    sync = state.sync
    text = f"ssp, staleness ≤ {sync.staleness_bound}" if sync.mode == "ssp" else sync.mode
    return f"{text}, {sync.local_steps} local steps" if sync.local_steps > 1 else text


def _server_status(entry: ServerEntry, state: RunState, now: float) -> ServerStatus:
    table = state.fleet.table
    copies = []
    for reign in table.held_by(entry.server):
        role = reign.role_of(entry.server)
        assert role is not None, "it has a part"
        primary = state.fleet.servers[reign.primary.server].keeps.get(reign.shard)
        lagging = dict(primary.lagging) if primary is not None else {}
        copies.append(CopyStatus(reign.shard, role, reign.term, lagging.get(entry.server, 0)))
    word: Literal["alive", "suspect", "spare", "dead"] = "spare"
    if copies or entry.keeps:
        # What a log brought back may be all that is left of a shard.
        word = "alive"
    if entry.dead:
        word = "dead"
    elif entry.detector.suspect(now):
        word = "suspect"
    return ServerStatus(
        server=entry.server,
        url=entry.url,
        state=word,
        shards=tuple(entry.shards),
        version=max(
            (report.version for report in entry.report.shards) if entry.report else (), default=0
        ),
        copies=tuple(copies),
        process=entry.process,
        machine=entry.machine,
    )


def _shard_statuses(state: RunState) -> tuple[ShardStatus, ...]:
    reports = {report.shard: report for report in state.fleet.shard_reports()}
    wanted = min(state.experiment.replication.replicas, state.experiment.cluster.servers) - 1
    found = []
    for shard in state.fleet.shards():
        reign, report = state.fleet.table.reign(shard), reports.get(shard)
        found.append(
            ShardStatus(
                shard=shard,
                term=reign.term if reign is not None else 0,
                primary=reign.primary.server if reign is not None else -1,
                backups=tuple(peer.server for peer in reign.backups) if reign is not None else (),
                learners=tuple(peer.server for peer in reign.learners) if reign is not None else (),
                wanted=wanted,
                version=report.version if report is not None else 0,
                contributors=report.contributors if report is not None else 0,
            )
        )
    return tuple(found)


def _worker_statuses(state: RunState, now: float) -> Iterator[WorkerStatus]:
    members, progress = state.membership, state.fleet.progress
    for entry in members.entries():
        suspect = entry.live and members.suspect(entry.worker, now)
        seen = progress.of(entry.worker, entry.incarnation)
        yield _worker_status(entry, seen, suspect=suspect)


def _worker_status(entry: WorkerEntry, progress: Progress | None, *, suspect: bool) -> WorkerStatus:
    beat = entry.heartbeat
    totals = entry.totals
    refused = 0
    if progress is not None:
        refused = progress.pushes_refused_nonfinite + progress.pushes_refused_lag
    return WorkerStatus(
        name=entry.name,
        state=entry.state,
        device=entry.device,
        steps=totals.steps,
        samples=totals.samples,
        loss=beat.loss if beat is not None else None,
        rate_samples_per_second=beat.rate_samples_per_second if beat and entry.live else 0.0,
        staleness=progress.staleness if progress is not None else 0,
        staleness_max=progress.staleness_max if progress is not None else 0,
        pushes_refused=refused,
        bytes_pushed=totals.bytes_pushed,
        bytes_pulled=totals.bytes_pulled,
        coding=beat.coding if beat is not None else "",
        coding_reason=beat.coding_reason if beat is not None else "",
        note=entry.note,
        suspect=suspect,
        process=entry.process,
        machine=entry.machine,
    )
