"""What the supervisor decided lately, and why."""

from __future__ import annotations

from datetime import datetime

from rich.table import Table
from rich.text import Text

from psedge.protocol.status import Event, Status


def event_lines(status: Status, most: int) -> Table:
    """The latest events of the journal, one or more lines each, the newest last."""
    grid = Table.grid(padding=(0, 1))
    for event in status.journal[-most:]:
        moment = datetime.fromtimestamp(event.at).strftime("%H:%M:%S")
        what = Text.assemble(f"{event.subject}: ", (event.decision, "bold"))
        if event.reason:
            what.append(f", {event.reason}", style="dim")
        grid.add_row(Text(f" {moment}", style="dim"), what)
    return grid


def decision_note(event: Event) -> str:
    """A decision as the notes of the run have it."""
    return f"{event.subject}: {event.decision} ({event.reason})"
