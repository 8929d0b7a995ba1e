"""When gradients that are not finite numbers are no accident any more."""

from __future__ import annotations

from psedge.protocol.errors import TrainingError
from psedge.worker.client import ExchangeResult

#: So many pushes in a row with NaN or Inf in them end the training.
NONFINITE_LIMIT = 5


class FiniteCheck:
    """Counts pushes that the servers refused for NaN or Inf; one now and then is forgiven."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def judge(self, result: ExchangeResult) -> None:
        """Raises TrainingError, with the likely causes, at NONFINITE_LIMIT in a row."""
        self._in_a_row = self._in_a_row + 1 if result.nonfinite else 0
        if self._in_a_row >= NONFINITE_LIMIT:
            raise TrainingError(
                f"{NONFINITE_LIMIT} gradients in a row were not finite numbers (NaN or Inf), so "
                "nothing can be learned. Likely causes: optimizer.lr is too high (try a tenth, or "
                "schedule.warmup), inputs are not normalised or hold NaN, the loss divides by zero "
                'or takes a logarithm of it, or model.precision = "float16" overflows (try '
                '"bfloat16"). worker.clip_norm limits large gradients, not NaN.'
            )
