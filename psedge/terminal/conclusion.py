"""The last page of `psedge run`: learning curve, summary, exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from psedge.protocol.errors import PsedgeError, TrainingError
from psedge.protocol.status import Status
from psedge.supervisor.run_rows import RESULT_FILE
from psedge.terminal.summary import summary


def conclude(
    status: Status, folder: Path, console: Console, started: float, *, of_objects: bool = False
) -> int:
    """Draw the learning curve, print the summary; 0 if the run finished or was stopped in order.

    started: seconds since 1970; a result of an earlier time belongs to the run that this one
    continues. of_objects: the run was one of Python objects.

    Raises TrainingError when the run left no result.
    """
    result = _result(folder, started)
    if result is None:
        unwritten = [note for note in status.notes if note.startswith("cannot write")]
        reason = status.reason or "; ".join(unwritten) or "the supervisor ended without a result"
        raise TrainingError(f"{reason}; see {folder / 'logs' / 'server-0.log'}")
    console.print(summary(result, folder, _plot(folder, console), of_objects=of_objects))
    return 1 if result.get("phase") == "failed" else 0


def _result(folder: Path, started: float) -> dict[str, Any] | None:
    path = folder / RESULT_FILE
    try:
        # File systems keep times in steps as coarse as two seconds.
        if path.stat().st_mtime < started - 2:
            return None
        result = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def _plot(folder: Path, console: Console) -> Path | None:
    """The picture of the learning curve; a run too short for one is no failure."""
    from psedge.plot import plot_run

    try:
        return plot_run(folder)
    except (PsedgeError, OSError) as error:
        console.print(f"no learning curve: {error}", style="yellow", markup=False)
        return None
