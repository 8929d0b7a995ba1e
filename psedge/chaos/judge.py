"""Whether a cluster keeps psedge's promises, judged from outside, by its status alone.

A pure core: it is shown one status after the other, with the time, and says what is wrong.
"""

from __future__ import annotations

import math

from psedge.chaos.targets import Census, is_whole
from psedge.protocol.status import ShardStatus, Status

#: After a fault is over, everybody must have a place again within so many seconds.
PATIENCE_SECONDS = 60.0


class Stall:
    """The longest time in which no push was counted, as far as this can be seen from outside.

    seconds: of that time.
    """

    def __init__(self, progress: int, now: float) -> None:
        self.seconds = 0.0
        self._progress = progress
        self._moved = now
        self._blind = False

    def observe(self, progress: int | None, now: float) -> None:
        """progress: of the latest status; None while there is none, and nobody knows."""
        if progress is None:
            self._blind = True
            return
        moved = progress != self._progress
        if not (moved and self._blind):
            self.seconds = max(self.seconds, now - self._moved)
        if moved:
            self._progress, self._moved = progress, now
        self._blind = False


class Recovery:
    """Whether the cluster has come back from a strike: everybody has a place, and pushes count.

    best: how many there were when it was at its best. process: of whom was struck, as it is after
    the strike; 0: of nobody in particular. gone: of whom nobody is to be seen any more.
    progress: when the strike was over.
    """

    def __init__(self, best: Census, process: int, gone: int, progress: int) -> None:
        self.is_there = False
        self._best = best
        self._process = process
        self._gone = gone
        self._progress = progress
        self._steps: int | None = None

    def observe(self, status: Status) -> bool:
        """status: of a moment after the strike; each is shown once."""
        progress = progress_of(status)
        # What is reported lost takes counts back.
        self._progress = min(self._progress, progress)
        went_on = self._went_on(status)
        self.is_there = is_whole(status, self._best, self._process, self._gone)
        return self.is_there and went_on and progress > self._progress

    def _went_on(self, status: Status) -> bool:
        """A worker that was struck has made a step of its own since, or has nothing to do."""
        for worker in status.workers:
            if self._process and worker.process == self._process:
                if self._steps is None:
                    self._steps = worker.steps
                return worker.state == "idle" or worker.steps > self._steps
        return True


class Judge:
    """Compares every status with those before it.

    violations: each in a sentence, the first one first.
    """

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.latest: Status | None = None
        #: Notes of losses that psedge itself has reported.
        self.losses: list[str] = []
        self._primaries: dict[tuple[int, int], int] = {}
        self._terms: dict[int, int] = {}
        self._notes: set[str] = set()

    def observe(self, status: Status) -> None:
        """Take one more status into account; statuses come in the order of time."""
        for note in status.notes:
            if note not in self._notes:
                self._notes.add(note)
                if _reports_loss(note):
                    self.losses.append(note)
        before = self.latest
        if before is None or has_heard(status):
            self.latest = status
        if status.phase == "failed" and (before is None or before.phase != "failed"):
            self.violated(f"the run failed: {status.reason}")
        if before is not None and has_heard(status):
            self._never_back(before, status)
        for shard in status.shards:
            self._reigns(shard)

    def conclude(self, struck_workers: int = 0) -> None:
        """The last status is the last: where the run has finished, every sample has its place.

        struck_workers: each may have left a push with some shards only, and come in again. The
        samples in it are then visited again, and the shard that had it, whose count the status
        shows, sees them twice.
        """
        status = self.latest
        if status is None or status.phase != "finished" or not status.samples_total:
            return
        again = struck_workers * math.ceil(status.samples / max(1, progress_of(status)))
        excess = status.samples - status.samples_total
        if not 0 <= excess <= again and not self.losses:
            self.violated(
                f"the run has finished after {status.samples:,} samples, and its data are "
                f"{status.samples_total:,}"
            )

    def violated(self, text: str) -> None:
        """Note a broken promise, once."""
        if text not in self.violations:
            self.violations.append(text)

    def _never_back(self, before: Status, status: Status) -> None:
        if self.losses:
            # A loss that is reported takes counts back, once for each of several reports.
            return
        for what, earlier, now in (
            ("samples", before.samples, status.samples),
            ("applied samples", before.samples_applied, status.samples_applied),
            ("applied pushes", before.pushes_applied, status.pushes_applied),
        ):
            if now < earlier:
                self.violated(f"{what} went back from {earlier:,} to {now:,}, and nobody said so")

    def _reigns(self, shard: ShardStatus) -> None:
        if shard.primary < 0:
            return
        term = self._terms.get(shard.shard, 0)
        if shard.term < term:
            self.violated(f"shard {shard.shard} is in term {shard.term}, and was in {term}")
        self._terms[shard.shard] = max(term, shard.term)
        primary = self._primaries.setdefault((shard.shard, shard.term), shard.primary)
        if primary != shard.primary:
            self.violated(
                f"shard {shard.shard} had two primaries in term {shard.term}: servers {primary} "
                f"and {shard.primary}"
            )


def progress_of(status: Status) -> int:
    """Pushes so far, whatever became of them: it stands still while nobody is answered."""
    return status.pushes_applied + status.pushes_refused


def has_heard(status: Status) -> bool:
    """Whether all servers have reported to this supervisor, which may have just been started."""
    return all(server.process for server in status.servers if server.state == "alive")


def _reports_loss(note: str) -> bool:
    return "lost" in note.split()
