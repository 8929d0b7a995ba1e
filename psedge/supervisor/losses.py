"""The training loss as people read it: a mean over the latest samples of all workers."""

from __future__ import annotations


class LossWindow:
    """Sample-weighted means: one since the last row on record, one that fades slowly."""

    #: Weight of what came before in the faded mean, at each heartbeat of any worker.
    FADE = 0.7

    def __init__(self) -> None:
        self.recent: float | None = None
        self._sum = 0.0
        self._samples = 0

    def add(self, loss: float, samples: int) -> None:
        """loss: mean over `samples` samples."""
        if samples <= 0:
            return
        self._sum += loss * samples
        self._samples += samples
        self.recent = (
            loss if self.recent is None else self.FADE * self.recent + (1 - self.FADE) * loss
        )

    def take(self) -> float | None:
        """The mean since the last call; None if nothing came."""
        mean = self._sum / self._samples if self._samples else None
        self._sum, self._samples = 0.0, 0
        return mean
