"""What the supervisor knows of its run: phase, members, data plan, servers, figures.

Decisions belong to the cores it holds together; the shell in `service.py` calls it and carries
answers over the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import RefusedError
from psedge.protocol.messages import Heartbeat, Join
from psedge.protocol.ports import Clock, Transport
from psedge.protocol.shards import OptimizerSettings, ScheduleSettings, SyncSettings
from psedge.protocol.status import ENDED, Event, Phase
from psedge.server.optimizer_settings import sync_settings
from psedge.server.schedule import factor
from psedge.supervisor.book import Book
from psedge.supervisor.book_rows import GONE_BACK, RunRecord
from psedge.supervisor.data_plan import DataPlan, PlanChanges
from psedge.supervisor.figures import Figures, figures_of
from psedge.supervisor.fleet import Fleet
from psedge.supervisor.journal import Journal
from psedge.supervisor.losses import LossWindow
from psedge.supervisor.membership import Membership, WorkerEntry
from psedge.supervisor.model_state import ModelState
from psedge.supervisor.setup import RunSetup

#: Notes kept for people to read in the status; all of them are in metrics.jsonl.
KEPT_NOTES = 8


class RunState:
    """One run from its first registered server to its end.

    book: what outlives this process; None: the run is over when the process is.
    """

    def __init__(
        self,
        setup: RunSetup,
        transport: Transport,
        token: str,
        notify: Callable[[str], None],
        clock: Clock,
        book: Book | None = None,
    ) -> None:
        self.setup = setup
        self.experiment = setup.experiment
        self.model: ModelState | None = setup.model
        self.book = book
        if book is not None:
            book.notify = self.note
        kept = book.restored() if book is not None else None
        self.journal = Journal(kept.journal if kept is not None else self._losses_before())
        self.phase: Phase = "waiting"
        self.reason = ""
        #: Why the run is to end before its data does; None while it goes on.
        self.stop_reason: str | None = None
        #: What the run has come to when it ends for that reason.
        self.stop_phase: Phase = "stopped"
        #: A supervisor that was started anew has yet to hear from all servers of the run.
        self.attaching = False
        #: It has failed for want of logs that may still be found: the next supervisor looks.
        self.resumable = False
        #: Why shards stand still, by shard, while their copies are waited for.
        self.waits: dict[int, str] = {}
        cluster, replication = self.experiment.cluster, self.experiment.replication
        self.fleet = Fleet(transport, token, self.note, cluster, replication)
        self.fleet.decrees.book = book
        self.plan: DataPlan | None = None
        self.sync: SyncSettings = sync_settings(setup.experiment.sync)
        self.schedule = ScheduleSettings()
        self.coding = CodingSettings()
        #: What training began with; None before.
        self.record: RunRecord | None = None
        self.losses = LossWindow()
        #: Of all workers together, over the last seconds.
        self.rate_samples_per_second = 0.0
        self.notes: list[str] = []
        self._new_notes: list[str] = []
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.train_samples = setup.train_samples
        #: What an earlier supervisor had put on record; servers have at least that.
        self.recorded = Figures()
        #: Pushed and pulled by earlier servers of a resumed run, up to its checkpoint.
        self.bytes_before = (0, 0)
        self.membership = Membership(
            cluster.lease_seconds, heartbeat_seconds=cluster.heartbeat_seconds
        )
        self._notify = notify
        self._clock = clock
        self._first_join_at: float | None = None
        self._local_samples: dict[int, int] = {}
        #: Up to which change of the members the book has them, and who they are there.
        self._saved_revision = -1
        self._saved_members: dict[int, tuple[int, bool]] = {}

    @property
    def ended(self) -> bool:
        return self.phase in ENDED

    def check_invariants(self) -> None:
        """Raise AssertionError if a part contradicts itself, or two of them each other."""
        self.membership.check_invariants()
        self.fleet.check_invariants()
        if self.plan is not None:
            self.plan.check_invariants()
        assert len(self.notes) <= KEPT_NOTES
        assert self.ended == (self.ended_at is not None)
        assert self.phase != "training" or self.started_at is not None
        assert not self.attaching or self.phase == "training"

    def note(self, text: str) -> None:
        """Something a person should know: shown, kept for the status, and put on record."""
        self.notes = [*self.notes[-KEPT_NOTES + 1 :], text]
        self._new_notes.append(text)
        self._notify(text)

    def decided(
        self, kind: str, subject: str, decision: str, reason: str, *, lost: bool = False
    ) -> None:
        """Put a decision into the journal; see `psedge.protocol.status.Event`."""
        at = self._clock.timestamp()
        event = self.journal.add(at, kind, subject, decision, reason, lost=lost)
        if self.book is not None:
            self.book.note(event)

    def end(self, phase: Phase, reason: str, now: float) -> None:
        """The first end counts."""
        if not self.ended:
            self.phase, self.reason, self.ended_at = phase, reason, now
            self.attaching = False
            self.decided("run", "the run", phase, reason or "all samples are visited")

    def missing_servers(self) -> int:
        return max(self.experiment.cluster.servers - len(self.fleet.list.live()), 0)

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

    def local_optimizer(self) -> tuple[OptimizerSettings, tuple[int, ...]] | None:
        """What workers step with themselves, when they take several steps per push."""
        if self.experiment.sync.local_steps == 1 or self.model is None:
            return None
        return self.model.settings, self.model.groups

    def lr_factor(self) -> float:
        return factor(self.schedule, self.samples_seen())

    def figures(self) -> Figures:
        pushed, pulled = self.fleet.bytes_moved()
        before_pushed, before_pulled = self.bytes_before
        moved = pushed + before_pushed, pulled + before_pulled
        return figures_of(self.fleet.shard_reports(), moved, self.recorded)

    def take_new_notes(self) -> list[str]:
        """Notes since the last call, for the record."""
        taken, self._new_notes = self._new_notes, []
        return taken

    def samples_seen(self) -> int:
        reports = self.fleet.shard_reports()
        return max([self.recorded.samples_seen, *(report.samples_seen for report in reports)])

    def samples_per_epoch(self) -> int:
        return self.plan.samples_per_epoch if self.plan is not None else 0

    def epochs_done(self) -> float:
        """Passes over the data so far; 0 where workers bring loops of their own."""
        per_epoch = self.samples_per_epoch()
        return self.samples_seen() / per_epoch if per_epoch else 0.0

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

    def epoch_samples(self) -> int:
        """Samples of one pass over the data of the workers that are there; 0 without [data]."""
        data = self.experiment.data
        if data is None:
            return 0
        if data.placement == "local":
            live = self.membership.live()
            return sum(self._local_samples.get(entry.incarnation, 0) for entry in live)
        return self.train_samples or 0

    def wait_anew(self) -> None:
        """Training has to begin again, with whoever joins."""
        self.phase, self.attaching = "waiting", False
        self.plan = self.record = self.started_at = self._first_join_at = None
        self.recorded = Figures()

    async def save_members(self) -> None:
        """Before somebody hears that it is in. Writes who came and who went since the last time."""
        if self.book is None or self.record is None:
            return
        members = self.membership
        changed = members.changed_since(self._saved_revision)
        self._saved_revision = members.revision
        await self.book.save_members(members.revision, self._unsaved(changed))

    async def save_plan(self) -> None:
        """Before a claim is answered, or what a leaver held is promised to others."""
        if self.book is not None and self.plan is not None:
            await self.book.save_plan(self.plan.take_changes())

    async def save_start(self, record: RunRecord) -> None:
        """Training begins: what an earlier training left in the book is over."""
        self.record = record
        if self.book is None:
            return
        members, plan = self.membership, self.plan
        self._saved_revision = members.revision
        self._saved_members.clear()
        changes = plan.take_changes() if plan is not None else PlanChanges(None, {}, {})
        entries = self._unsaved(members.entries())
        await self.book.begin(record, members.revision, entries, changes)

    async def save_gone_back(self) -> None:
        """What the servers hold counts no more, whatever becomes of this supervisor."""
        if self.book is not None and self.record is not None:
            self.record = msgspec.structs.replace(self.record, ended=GONE_BACK)
            await self.book.save_run(self.record)

    async def save_end(self) -> None:
        """So that whoever continues this run later goes by its checkpoint."""
        if self.resumable:
            return
        if self.book is not None and self.record is not None and self.ended:
            self.record = msgspec.structs.replace(self.record, ended=self.phase)
            await self.book.save_run(self.record)

    def remember_members(self) -> None:
        """The book has them as they are: they were read from it."""
        self._saved_revision = self.membership.revision
        self._unsaved(self.membership.entries())

    def _losses_before(self) -> tuple[Event, ...]:
        """What the checkpoint says was lost until then: the book that said so is not there."""
        checkpoint = self.setup.checkpoint
        losses = checkpoint.meta.losses if checkpoint is not None else ()
        if self.book is not None:
            for event in losses:
                self.book.note(event)
        return losses

    def _unsaved(self, entries: Sequence[WorkerEntry]) -> list[WorkerEntry]:
        """Those that are not in the book as they are; who is idle does not matter there."""
        found = []
        for entry in entries:
            kept = entry.incarnation, entry.live
            if self._saved_members.get(entry.worker) != kept:
                self._saved_members[entry.worker] = kept
                found.append(entry)
        return found
