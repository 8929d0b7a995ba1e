"""A worker's figures since it joined: what heartbeats report and people watch."""

from __future__ import annotations

from collections import deque

from psedge.protocol.messages import Heartbeat

#: Steps and seconds over which the rate is measured; the shorter of the two counts.
RATE_STEPS = 64
RATE_SECONDS = 10.0


class Metrics:
    """Counts of one incarnation. Times are of the clock that callers read, in seconds."""

    def __init__(self, now: float) -> None:
        self.steps = 0
        self.samples = 0
        self.compute_seconds = 0.0
        self.exchange_seconds = 0.0
        #: Of the latest heartbeat that had one.
        self.latest_loss: float | None = None
        self._loss_sum = 0.0
        self._loss_samples = 0
        self._marks: deque[tuple[float, int]] = deque([(now, 0)], maxlen=RATE_STEPS)

    def add_loss(self, loss: float, samples: int) -> None:
        """loss: mean over `samples`."""
        self._loss_sum += loss * samples
        self._loss_samples += samples

    def add_step(self, now: float, samples: int) -> None:
        """A finished step: its push was answered."""
        self.steps += 1
        self.samples += samples
        self._marks.append((now, self.samples))
        while len(self._marks) > 2 and now - self._marks[1][0] > RATE_SECONDS:
            self._marks.popleft()

    def rate(self, now: float) -> float:
        """Samples per second over the last steps; falls when none is finished for long."""
        first, last = self._marks[0], self._marks[-1]
        spacing = (last[0] - first[0]) / max(len(self._marks) - 1, 1)
        overdue = max(0.0, now - last[0] - 2 * spacing)
        seconds = last[0] - first[0] + overdue
        return (last[1] - first[1]) / seconds if seconds > 0 else 0.0

    def heartbeat(
        self,
        now: float,
        worker: int,
        incarnation: int,
        *,
        pushed: int,
        pulled: int,
        coding: str = "",
        coding_reason: str = "",
        failure: str = "",
    ) -> Heartbeat:
        """The next sign of life; the loss is of the samples since the one before.

        pushed, pulled: bytes.
        """
        loss = self._loss_sum / self._loss_samples if self._loss_samples else None
        self._loss_sum, self._loss_samples = 0.0, 0
        self.latest_loss = loss if loss is not None else self.latest_loss
        return Heartbeat(
            worker=worker,
            incarnation=incarnation,
            steps=self.steps,
            samples=self.samples,
            loss=loss,
            rate_samples_per_second=self.rate(now),
            compute_seconds=self.compute_seconds,
            exchange_seconds=self.exchange_seconds,
            bytes_pushed=pushed,
            bytes_pulled=pulled,
            coding=coding,
            coding_reason=coding_reason,
            failure=failure,
        )
