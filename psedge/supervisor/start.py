"""How training comes to begin: from a fresh model, from a checkpoint, or in the middle of itself.

A supervisor that finds in its book that training goes on *attaches*: it takes over servers, workers
and the data plan as they are. Only if the servers cannot be found does it go back to a checkpoint.
"""

from __future__ import annotations

import msgspec

from psedge.compression.coding_plan import resolve_coding
from psedge.config import Experiment
from psedge.protocol.errors import UserError
from psedge.protocol.shards import Assignment, LogSettings, ScheduleSettings
from psedge.server.config import ReplicationConfig
from psedge.server.optimizer_settings import schedule_settings, shard_settings
from psedge.supervisor.book_rows import GONE_BACK, BookState, RunRecord
from psedge.supervisor.checkpoint import Checkpoint
from psedge.supervisor.data_plan import DataPlan, PlanState
from psedge.supervisor.membership import Membership, MembershipState
from psedge.supervisor.model_state import ModelState
from psedge.supervisor.run_state import RunState
from psedge.supervisor.shard_map import cut_arrays, plan_shards
from psedge.supervisor.shard_table import ShardTable

#: Sections of a config that servers and workers keep from the start of training on.
_KEPT_SECTIONS = ("model", "data", "optimizer", "schedule", "sync", "compression", "durability")
#: Ends of a run after which its last checkpoint has everything.
_IN_ORDER = ("finished", "stopped")
#: More terms than there can be between two checkpoints.
TERMS_AFTER_CHECKPOINT = 1000


def prepare(state: RunState, now: float) -> None:
    """Take over what earlier supervisors of the run left, at the beginning of this one."""
    kept = state.book.restored() if state.book is not None else None
    if kept is not None and kept.training:
        _attach(state, kept, now)
        return
    if kept is not None:
        # Terms only rise, over the end of a training too.
        table = msgspec.structs.replace(kept.table, reigns=(), at=())
        state.fleet.decrees.table = ShardTable.restored(table)
    if state.setup.checkpoint is not None:
        _take_up(state, state.setup.checkpoint)


async def start(state: RunState, now: float, timestamp: float, recorded: int) -> None:
    """Cut the model, hand the shards out, open the data.

    now, timestamp: monotonic, and since 1970. recorded: samples visited when that was last put on
    record, before this start.
    Raises UserError for a schedule or optimizer that does not fit the model or the data.
    """
    model = state.model
    assert model is not None, "start comes after the model"
    epoch_samples = state.epoch_samples()
    state.schedule = _resolved_schedule(state, epoch_samples)
    _resolve_coding(state, model)
    assignments = _assignments(state, model)
    vectors = model.arrays()
    slices = [
        (shard, cut_arrays(assignment, vectors))
        for assignment, shard in zip(assignments, model.states_for(len(assignments)), strict=True)
    ]
    await state.fleet.assign(assignments, slices)
    _open_plan(state, epoch_samples)
    checkpoint = state.setup.checkpoint
    record = RunRecord(
        started_at=timestamp,
        seconds=0.0 if checkpoint is None else float(checkpoint.meta.figures.get("seconds", 0.0)),
        bytes_before=state.bytes_before,
        resumed_samples=None if checkpoint is None else checkpoint.meta.samples,
        train_samples=state.train_samples,
        sync=state.sync,
        schedule=state.schedule,
        coding=state.coding,
        assignments=tuple(assignments),
        config=msgspec.to_builtins(state.experiment),
    )
    _tell_start(state, recorded)
    _tell_copies(state)
    await state.save_start(record)
    state.phase, state.started_at = "training", now


async def go_back(state: RunState, why: str, samples: int) -> str:
    """Give up what the servers had, and wait for training to begin again from the checkpoint.

    Everyone has to join again. samples: visited when that was last put on record.
    Returns why it cannot be, or nothing.
    """
    checkpoint = state.setup.checkpoint
    if checkpoint is None:
        return f"{why}; there is no checkpoint yet, so the run has to be started anew"
    lost = max(samples - checkpoint.meta.samples, 0)
    # The record is a second or so behind what was trained.
    work = f"the work of at least {lost:,} samples" if lost else "what was trained since"
    at = f"the checkpoint at {checkpoint.meta.samples:,} samples"
    text = f"{why}; training goes back to {at}: {work} is lost"
    state.note(text)
    state.decided("run", "the run", "go back", text, lost=True)
    # Before anything else, with these words: a supervisor that follows this one must not take
    # shards that are being handed out anew for those of the training that is given up.
    await state.save_gone_back()
    members = state.membership.export()
    state.wait_anew()
    state.fleet.forget()
    _take_up(state, checkpoint, members)
    return ""


def _tell_start(state: RunState, recorded: int) -> None:
    """Say that training begins, and what it costs that it begins at a checkpoint."""
    checkpoint, what = state.setup.checkpoint, "servers, model and workers are there"
    if checkpoint is None:
        state.decided("run", "the run", "start", what)
        return
    at = f"training goes on after {checkpoint.meta.samples:,} samples"
    lost = _lost_work(state, recorded - checkpoint.meta.samples)
    if lost:
        at = f"{at}; {lost} after that is lost"
        state.note(at)
    state.decided("run", "the run", "start", f"{what}; {at}", lost=bool(lost))


def _tell_copies(state: RunState) -> None:
    """Say so where there are fewer copies than asked for; the default asks for two at most."""
    wanted, servers = state.fleet.replication.replicas, state.experiment.cluster.servers
    if wanted > max(servers, ReplicationConfig().replicas):
        copies = "1 copy" if servers == 1 else f"{servers} copies"
        state.note(
            f"replicas = {wanted} takes {wanted} servers: with {servers} each part of the model "
            f"has {copies}, until another server joins"
        )


def _lost_work(state: RunState, samples: int) -> str:
    """What a checkpoint lacks, in words; empty for nothing, or if going back has said it.

    samples: on record behind the checkpoint.
    """
    kept = state.book.restored() if state.book is not None else None
    gone_back = kept is not None and kept.record is not None and kept.record.ended == GONE_BACK
    if kept is not None and (kept.training or gone_back):
        return ""
    if samples > 0:
        return f"the work of at least {samples:,} samples"
    # The record may lack the last second, and all of it where a disk was damaged.
    in_order = kept is not None and kept.record is not None and kept.record.ended in _IN_ORDER
    return "" if in_order else "whatever was trained"


def _attach(state: RunState, kept: BookState, now: float) -> None:
    record, cluster = kept.record, state.experiment.cluster
    assert record is not None
    state.membership = Membership.restored(
        kept.members,
        cluster.lease_seconds,
        heartbeat_seconds=cluster.heartbeat_seconds,
        attached_at=now,
    )
    state.remember_members()
    if kept.plan is not None:
        state.plan = DataPlan.attached(kept.plan)
        for entry in state.membership.live():
            if entry.local_samples:
                state.plan.open_pool(entry.worker, entry.name, entry.local_samples)
    state.record, state.bytes_before = record, record.bytes_before
    state.sync, state.schedule, state.coding = record.sync, record.schedule, record.coding
    state.train_samples = record.train_samples
    state.fleet.attach(ShardTable.restored(kept.table), kept.servers, record.assignments, now)
    state.phase, state.started_at, state.attaching = "training", now, True
    state.decided("run", "the supervisor", "attach", "it was started anew while training goes on")
    changed = _changed_sections(state, record)
    if changed and not state.setup.from_checkpoint:
        state.note(
            f"[{'], ['.join(changed)}] of the config changed: that counts only once training is "
            "resumed from a checkpoint"
        )


def _changed_sections(state: RunState, record: RunRecord) -> list[str]:
    # As JSON has it, in which the book keeps the other one.
    now = msgspec.json.decode(msgspec.json.encode(state.experiment))
    return [name for name in _KEPT_SECTIONS if now.get(name) != record.config.get(name)]


def _take_up(
    state: RunState, checkpoint: Checkpoint, members: MembershipState | None = None
) -> None:
    """Where the checkpoint left off. members: newer than those in it."""
    figures, cluster = checkpoint.meta.figures, state.experiment.cluster
    for shard in range(cluster.servers):
        # A book that was lost may have known of later terms, and servers may still go by them.
        state.fleet.table.heard_of(shard, checkpoint.meta.term + TERMS_AFTER_CHECKPOINT, -1)
    state.bytes_before = int(figures.get("bytes_pushed", 0)), int(figures.get("bytes_pulled", 0))
    members = members or checkpoint.meta.members
    if members is not None:
        state.membership = Membership.restored(
            members, cluster.lease_seconds, heartbeat_seconds=cluster.heartbeat_seconds
        )


def _assignments(state: RunState, model: ModelState) -> list[Assignment]:
    experiment = state.experiment
    local = experiment.sync.local_steps > 1
    log = _log_settings(experiment)
    return [
        msgspec.structs.replace(assignment, log=log)
        for assignment in plan_shards(
            model.layout,
            shard_settings(
                model.settings,
                experiment.optimizer,
                experiment.sync,
                momentum_correction=state.coding.momentum_correction > 0,
            ),
            (0,) * len(model.groups) if local else model.groups,
            ScheduleSettings() if local else state.schedule,
            state.sync,
            state.coding,
            experiment.cluster.servers,
        )
    ]


def _log_settings(experiment: Experiment) -> LogSettings:
    durability = experiment.durability
    return LogSettings(
        sync=durability.log,
        sync_seconds=durability.sync_seconds,
        segment_bytes=durability.segment_mb * 10**6,
        snapshot_bytes=durability.snapshot_mb * 10**6,
        digest_every=experiment.replication.digest_every,
    )


def _resolve_coding(state: RunState, model: ModelState) -> None:
    experiment = state.experiment
    state.coding, reason = resolve_coding(
        experiment.compression,
        mode=state.sync.mode,
        momentum=model.settings.groups[0].momentum,
        parameters=len(model.parameters),
        workers=max(experiment.cluster.workers, state.membership.live_count),
        servers=experiment.cluster.servers,
        seed=experiment.seed,
        compensates=experiment.optimizer.delay_compensation > 0,
    )
    if state.coding.chain == "shared":
        state.note(reason)


def _resolved_schedule(state: RunState, epoch_samples: int) -> ScheduleSettings:
    config = state.experiment.schedule
    if epoch_samples:
        return schedule_settings(config, epoch_samples)
    if config.unit == "samples" or config.kind == "constant":
        return schedule_settings(config, 1)
    raise UserError(
        'a schedule in epochs needs [data] on the server; say unit = "samples" in [schedule]'
    )


def _open_plan(state: RunState, epoch_samples: int) -> None:
    data = state.experiment.data
    if data is None:
        return
    total = schedule_settings(state.experiment.schedule, epoch_samples).total
    checkpoint = state.setup.checkpoint
    saved = checkpoint.meta.plan if checkpoint is not None else None
    if saved is not None:
        state.plan = _continued_plan(saved, epoch_samples, total)
        if saved.placement == "shared" and state.plan.total > total:
            state.note(
                f"[schedule] ends after {total:,} samples, and more had been handed out before: "
                f"the run ends after {state.plan.total:,}"
            )
    elif data.placement == "local":
        state.plan = DataPlan.local(epochs=total / epoch_samples)
    else:
        state.plan = DataPlan.shared(epoch_samples, total)


def _continued_plan(saved: PlanState, epoch_samples: int, total: int) -> DataPlan:
    if saved.placement == "local":
        return DataPlan.restored(saved, epochs=total / epoch_samples)
    return DataPlan.restored(saved, samples=epoch_samples, total=total)


def nothing_left(experiment: Experiment, checkpoint: Checkpoint) -> bool:
    """Whether the data that a config asks for are visited up to the last sample."""
    saved = checkpoint.meta.plan
    size = sum(pool.samples for pool in saved.pools) if saved is not None else 0
    if saved is None or not size:
        return False
    total = schedule_settings(experiment.schedule, size).total
    return _continued_plan(saved, size, total).finished
