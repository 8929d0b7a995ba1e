"""What the supervisor knows of its run: phase, members, data plan, servers, figures.

Decisions belong to the cores it holds together; the shell in `service.py` calls it and carries
answers over the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from psedge.compression.coding_plan import resolve_coding
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import RefusedError, UserError
from psedge.protocol.messages import Heartbeat, Join
from psedge.protocol.ports import Transport
from psedge.protocol.shards import OptimizerSettings, ScheduleSettings, SyncSettings
from psedge.server.optimizer_settings import schedule_settings, shard_settings, sync_settings
from psedge.server.schedule import factor
from psedge.supervisor.data_plan import DataPlan
from psedge.supervisor.fleet import Fleet
from psedge.supervisor.losses import LossWindow
from psedge.supervisor.membership import Membership
from psedge.supervisor.model_state import ModelState
from psedge.supervisor.setup import RunSetup
from psedge.supervisor.shard_map import cut_arrays, plan_shards

Phase = Literal["waiting", "training", "finished", "stopped", "failed"]

#: Notes kept for people to read in the status; all of them are in metrics.jsonl.
KEPT_NOTES = 8


@dataclass(frozen=True, slots=True)
class Figures:
    """A run's totals, from its shards' latest reports.

    Every push goes to all shards, so one shard counts them all; the largest count is the newest.
    """

    samples_seen: int = 0
    samples_applied: int = 0
    pushes_applied: int = 0
    pushes_refused: int = 0
    staleness_max: int = 0
    lag_max: int = 0
    bytes_pushed: int = 0
    bytes_pulled: int = 0


class RunState:
    """One run from its first registered server to its end."""

    def __init__(
        self, setup: RunSetup, transport: Transport, token: str, notify: Callable[[str], None]
    ) -> None:
        self.setup = setup
        self.experiment = setup.experiment
        self.model: ModelState | None = setup.model
        self.phase: Phase = "waiting"
        self.reason = ""
        #: Why the run is to end before its data does; None while it goes on.
        self.stop_reason: str | None = None
        #: What the run has come to when it ends for that reason.
        self.stop_phase: Phase = "stopped"
        self.fleet = Fleet(transport, token, self.note)
        self.plan: DataPlan | None = None
        self.sync: SyncSettings = sync_settings(setup.experiment.sync)
        self.schedule = ScheduleSettings()
        self.coding = CodingSettings()
        self.losses = LossWindow()
        self.notes: list[str] = []
        self._new_notes: list[str] = []
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.train_samples = setup.train_samples
        lease = self.lease_seconds
        checkpoint = setup.checkpoint
        figures = {} if checkpoint is None else checkpoint.meta.figures
        #: Pushed and pulled by earlier processes of a resumed run, up to its checkpoint.
        self._bytes_before = (
            int(figures.get("bytes_pushed", 0)),
            int(figures.get("bytes_pulled", 0)),
        )
        if checkpoint is not None and checkpoint.meta.members is not None:
            self.membership = Membership.restored(checkpoint.meta.members, lease)
        else:
            self.membership = Membership(lease)
        self._notify = notify
        self._first_join_at: float | None = None
        self._local_samples: dict[int, int] = {}

    @property
    def lease_seconds(self) -> float:
        return self.experiment.cluster.lease_seconds

    @property
    def ended(self) -> bool:
        return self.phase in ("finished", "stopped", "failed")

    def check_invariants(self) -> None:
        """Raise AssertionError if a part contradicts itself, or two of them each other."""
        self.membership.check_invariants()
        self.fleet.check_invariants()
        if self.plan is not None:
            self.plan.check_invariants()
        assert len(self.notes) <= KEPT_NOTES
        assert self.ended == (self.ended_at is not None)
        assert self.phase != "training" or self.started_at is not None

    def note(self, text: str) -> None:
        """Something a person should know: shown, kept for the status, and put on record."""
        self.notes = [*self.notes[-KEPT_NOTES + 1 :], text]
        self._new_notes.append(text)
        self._notify(text)

    def end(self, phase: Phase, reason: str, now: float) -> None:
        """The first end counts."""
        if not self.ended:
            self.phase, self.reason, self.ended_at = phase, reason, now

    def missing_servers(self) -> int:
        return max(self.experiment.cluster.servers - len(self.fleet.servers), 0)

    def take_data_size(self, message: Join) -> None:
        """Learn how much data there is, from the first who knows.

        Raises RefusedError `conflict` when a worker's shared data set is not the others'.
        """
        data = self.experiment.data
        if data is None or not message.loader:
            return
        if data.placement == "local":
            if not message.local_samples:
                raise RefusedError("conflict", "placement is local: the worker has no samples")
            self._local_samples[message.incarnation] = message.local_samples
            return
        if self.train_samples is None:
            self.train_samples = message.dataset_samples
        if message.dataset_samples != self.train_samples:
            raise RefusedError(
                "conflict",
                f"this worker's data set has {message.dataset_samples} training samples, the "
                f"others' has {self.train_samples}: every machine needs the same data",
            )

    def waiting_for_parts(self) -> str:
        """What is missing before a worker can join, in words; empty if nothing is."""
        missing = self.missing_servers()
        if missing:
            return f"{missing} more server{'s' if missing > 1 else ''}"
        return "" if self.model is not None else "the model"

    def waiting_for_workers(self, now: float) -> str:
        """What the start waits for, in words; empty when training can start."""
        parts = self.waiting_for_parts()
        if parts:
            return parts
        if self._first_join_at is None:
            self._first_join_at = now
        cluster = self.experiment.cluster
        present = self.membership.live_count
        left = cluster.wait_seconds - (now - self._first_join_at)
        missing = cluster.workers - present
        if missing > 0 and left > 0:
            return f"{missing} more of {cluster.workers} workers"
        if missing > 0:
            self.note(f"training starts with {present} of {cluster.workers} workers")
        return ""

    async def start(self, now: float) -> None:
        """Cut the model, hand the shards out, open the data.

        Raises UserError for a schedule or optimizer that does not fit the model or the data.
        """
        model = self.model
        assert model is not None, "start comes after the model"
        epoch_samples = self._epoch_samples()
        self.schedule = self._resolved_schedule(epoch_samples)
        self._resolve_coding(model)
        local = self.experiment.sync.local_steps > 1
        assignments = plan_shards(
            model.layout,
            shard_settings(
                model.settings,
                self.experiment.optimizer,
                self.experiment.sync,
                momentum_correction=self.coding.momentum_correction > 0,
            ),
            (0,) * len(model.groups) if local else model.groups,
            ScheduleSettings() if local else self.schedule,
            self.sync,
            self.coding,
            self.experiment.cluster.servers,
        )
        vectors = model.arrays()
        slices = [
            (state, cut_arrays(assignment, vectors))
            for assignment, state in zip(
                assignments, model.states_for(len(assignments)), strict=True
            )
        ]
        await self.fleet.assign(assignments, slices)
        self._open_plan(epoch_samples)
        self.phase, self.started_at = "training", now

    def local_optimizer(self) -> tuple[OptimizerSettings, tuple[int, ...]] | None:
        """What workers step with themselves, when they take several steps per push."""
        if self.experiment.sync.local_steps == 1 or self.model is None:
            return None
        return self.model.settings, self.model.groups

    def lr_factor(self) -> float:
        return factor(self.schedule, self.samples_seen())

    def figures(self) -> Figures:
        reports = self.fleet.shard_reports()
        if not reports:
            return Figures()
        pushed, pulled = self.fleet.bytes_moved()
        pushed, pulled = pushed + self._bytes_before[0], pulled + self._bytes_before[1]
        return Figures(
            samples_seen=max(report.samples_seen for report in reports),
            samples_applied=max(report.samples_applied for report in reports),
            pushes_applied=max(report.pushes_applied for report in reports),
            pushes_refused=max(report.pushes_refused for report in reports),
            staleness_max=max(report.staleness_max for report in reports),
            lag_max=max(report.lag_max for report in reports),
            bytes_pushed=pushed,
            bytes_pulled=pulled,
        )

    def take_new_notes(self) -> list[str]:
        """Notes since the last call, for the record."""
        taken, self._new_notes = self._new_notes, []
        return taken

    def samples_seen(self) -> int:
        return max((report.samples_seen for report in self.fleet.shard_reports()), default=0)

    def samples_per_epoch(self) -> int:
        return self.plan.samples_per_epoch if self.plan is not None else 0

    def epochs_done(self) -> float:
        """Passes over the data so far; 0 where workers bring loops of their own."""
        per_epoch = self.samples_per_epoch()
        return self.samples_seen() / per_epoch if per_epoch else 0.0

    def range_samples(self) -> int:
        """Samples that a worker is handed at a time: whole pushes."""
        data, worker = self.experiment.data, self.experiment.worker
        batch = data.batch_size if data is not None else 1
        return batch * worker.accumulate * self.experiment.cluster.range_batches

    def admit(self, worker: int, name: str, local_samples: int | None) -> None:
        """Give a worker its place in the data plan."""
        if self.plan is not None and local_samples:
            self.plan.open_pool(worker, name, local_samples)

    def take_heartbeat(self, name: str, before: Heartbeat | None, message: Heartbeat) -> None:
        """before: the worker's heartbeat before this one, None for its first."""
        if message.loss is not None:
            samples_before = before.samples if before is not None else 0
            self.losses.add(message.loss, max(message.samples - samples_before, 0))
        coding_before = before.coding if before is not None else ""
        told = coding_before or self._first_coding()
        if message.coding not in ("", told) and message.coding_reason:
            self.note(f"worker {name}: {message.coding_reason}")

    def _first_coding(self) -> str:
        """How each worker starts out, which is no news: with the config's codecs, or float32."""
        codecs = (self.coding.push, self.coding.pull)
        return " / ".join("identity" if codec == "auto" else codec for codec in codecs)

    def _resolve_coding(self, model: ModelState) -> None:
        cluster = self.experiment.cluster
        self.coding, reason = resolve_coding(
            self.experiment.compression,
            mode=self.sync.mode,
            momentum=model.settings.groups[0].momentum,
            parameters=len(model.parameters),
            workers=max(cluster.workers, self.membership.live_count),
            servers=cluster.servers,
            seed=self.experiment.seed,
            compensates=self.experiment.optimizer.delay_compensation > 0,
        )
        if self.coding.chain == "shared":
            self.note(reason)

    def _epoch_samples(self) -> int:
        data = self.experiment.data
        if data is None:
            return 0
        if data.placement == "local":
            live = self.membership.live()
            return sum(self._local_samples.get(entry.incarnation, 0) for entry in live)
        return self.train_samples or 0

    def _resolved_schedule(self, epoch_samples: int) -> ScheduleSettings:
        config = self.experiment.schedule
        if epoch_samples:
            return schedule_settings(config, epoch_samples)
        if config.unit == "samples" or config.kind == "constant":
            return schedule_settings(config, 1)
        raise UserError(
            'a schedule in epochs needs [data] on the server; say unit = "samples" in [schedule]'
        )

    def _open_plan(self, epoch_samples: int) -> None:
        data = self.experiment.data
        if data is None:
            return
        total = schedule_settings(self.experiment.schedule, epoch_samples).total
        checkpoint = self.setup.checkpoint
        saved = checkpoint.meta.plan if checkpoint is not None else None
        local = data.placement == "local"
        epochs = total / epoch_samples
        if saved is not None:
            self.plan = (
                DataPlan.restored(saved, epochs=epochs)
                if local
                else DataPlan.restored(saved, samples=epoch_samples, total=total)
            )
        elif local:
            self.plan = DataPlan.local(epochs=epochs)
        else:
            self.plan = DataPlan.shared(epoch_samples, total)
