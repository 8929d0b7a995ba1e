"""What a run came to, put together from its last status."""

from __future__ import annotations

from psedge.protocol.status import Status
from psedge.protocol.version import __version__
from psedge.supervisor.run_rows import Result
from psedge.supervisor.setup import RunSetup


def result_of(
    status: Status, setup: RunSetup, best_accuracy: float | None, resumed_samples: int | None
) -> Result:
    """The content of `result.json`. status: with a row for each worker.

    resumed_samples: of the checkpoint that training went on from, if it did.
    """
    evaluation = status.evaluation
    return Result(
        run=status.run,
        phase=status.phase,
        reason=status.reason,
        test_accuracy=evaluation.accuracy if evaluation else None,
        test_loss=evaluation.loss if evaluation else None,
        test_metrics=evaluation.metrics if evaluation else {},
        best_accuracy=best_accuracy,
        samples_applied=status.samples_applied,
        samples_seen=status.samples,
        samples_per_second=status.samples_applied / status.seconds if status.seconds else 0.0,
        seconds=status.seconds,
        pushes_applied=status.pushes_applied,
        pushes_refused=status.pushes_refused,
        bytes_pushed=status.bytes_pushed,
        bytes_pulled=status.bytes_pulled,
        staleness_max=status.staleness_max,
        lag_max=status.lag_max,
        workers=len(status.workers),
        servers=sum(server.state != "dead" for server in status.servers),
        epochs=status.epochs_done,
        model=status.model,
        parameters=status.parameters,
        mode=status.mode,
        seed=setup.experiment.seed,
        resumed_from_samples=resumed_samples,
        psedge=__version__,
        worker_rows=status.workers,
    )
