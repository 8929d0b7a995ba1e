"""The figures of a simulated run for programs: `result.json`'s keys, and those of a simulation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from psedge.config import Experiment
from psedge.protocol.version import __version__
from psedge.simulation.outcome import Outcome
from psedge.supervisor.run_rows import EvaluationRow, ProgressRow, Result, Row

#: Test accuracies worth a line of their own: when each was first reached.
ACCURACIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.95, 0.97, 0.98, 0.99)


def figures_of(outcome: Outcome, experiment: Experiment) -> dict[str, Any]:
    """What `--json` prints, as JSON types.

    All keys of `result.json`, with the simulation's seed as `seed`; a run that was cut short has
    them as far as its rows tell.
    """
    result = outcome.result or _so_far(outcome, experiment)
    figures: dict[str, Any] = msgspec.to_builtins(result)
    sent = sum(traffic.sent_bytes for traffic in outcome.traffic.values())
    return figures | {
        "seed": outcome.seed,
        "experiment_seed": experiment.seed,
        "virtual_seconds": outcome.virtual_seconds,
        "faults": list(outcome.faults),
        "violations": msgspec.to_builtins(outcome.violations),
        "recoveries": msgspec.to_builtins(outcome.recoveries),
        "seconds_to_accuracy": {
            f"{accuracy:.2f}": seconds for accuracy, seconds in seconds_to_accuracy(outcome.rows)
        },
        "wire_bytes": sent,
        "trace_digest": outcome.digest,
    }


def as_json(figures: dict[str, Any]) -> str:
    """Indented, and ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(figures), indent=2).decode() + "\n"


def seconds_to_accuracy(rows: Sequence[Row]) -> Iterator[tuple[float, float]]:
    """Each of ACCURACIES that was reached, and the virtual seconds until then."""
    measured = [
        (row.timestamp, row.evaluation.accuracy)
        for row in rows
        if isinstance(row, EvaluationRow) and row.evaluation.accuracy is not None
    ]
    for accuracy in ACCURACIES:
        first = next((at for at, value in measured if value >= accuracy), None)
        if first is not None:
            yield accuracy, first


def _so_far(outcome: Outcome, experiment: Experiment) -> Result:
    """A result for a run whose supervisor wrote none."""
    progress = [row for row in outcome.rows if isinstance(row, ProgressRow)]
    measured = [row.evaluation for row in outcome.rows if isinstance(row, EvaluationRow)]
    last = progress[-1] if progress else ProgressRow(0, 0.0, 0.0)
    accuracies = [one.accuracy for one in measured if one.accuracy is not None]
    return Result(
        run=experiment.name,
        phase=outcome.phase,
        reason=outcome.reason,
        test_accuracy=measured[-1].accuracy if measured else None,
        test_loss=measured[-1].loss if measured else None,
        samples_applied=last.samples,
        samples_per_second=last.samples / last.seconds if last.seconds else 0.0,
        seconds=last.seconds,
        pushes_applied=last.pushes_applied,
        pushes_refused=last.pushes_refused,
        bytes_pushed=last.bytes_pushed,
        bytes_pulled=last.bytes_pulled,
        staleness_max=max((row.staleness_max for row in progress), default=0),
        lag_max=max((row.lag_max for row in progress), default=0),
        workers=max((row.workers for row in progress), default=0),
        servers=experiment.cluster.servers,
        samples_seen=last.samples,
        epochs=last.epoch,
        best_accuracy=max(accuracies, default=None),
        mode=experiment.sync.mode,
        seed=experiment.seed,
        psedge=__version__,
    )
