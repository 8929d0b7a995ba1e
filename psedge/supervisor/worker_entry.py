"""What is kept of one worker: its place in the run, its latest sign of life, what it achieved."""

from __future__ import annotations

from typing import Literal

import msgspec

from psedge.protocol.messages import Heartbeat, Place

State = Literal["alive", "idle", "left", "dead"]


class Totals(msgspec.Struct, frozen=True):
    """What a worker achieved, summed over its incarnations."""

    steps: int = 0
    samples: int = 0
    bytes_pushed: int = 0
    bytes_pulled: int = 0


class WorkerEntry(msgspec.Struct, frozen=True):
    """One worker.

    seen_at: `now` of its latest sign of life.
    heartbeat: the latest of this incarnation. before: totals of its earlier incarnations.
    note: why it left, if not by the user's wish.
    process, machine: pid and name of its machine, as it says.
    place: where no other process can be that lives, see `psedge.protocol.messages.Place`.
    """

    worker: int
    name: str
    incarnation: int
    state: State = "alive"
    device: str = ""
    loader: bool = True
    local_samples: int | None = None
    seen_at: float = 0.0
    heartbeat: Heartbeat | None = None
    before: Totals = Totals()
    note: str = ""
    process: int = 0
    machine: str = ""
    place: Place | None = None

    @property
    def live(self) -> bool:
        return self.state in ("alive", "idle")

    @property
    def totals(self) -> Totals:
        """Everything this worker achieved in the run."""
        last = self.heartbeat
        if last is None:
            return self.before
        return Totals(
            steps=self.before.steps + last.steps,
            samples=self.before.samples + last.samples,
            bytes_pushed=self.before.bytes_pushed + last.bytes_pushed,
            bytes_pulled=self.before.bytes_pulled + last.bytes_pulled,
        )


class MembershipState(msgspec.Struct, frozen=True):
    """What is kept of the table: in a checkpoint, and by the supervisor over its own death."""

    revision: int
    workers: tuple[WorkerEntry, ...]
