"""What `psedge chaos` says: what it does as it does it, and a verdict at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.status import Status as Spinner
from rich.table import Table
from rich.text import Text

from psedge.protocol.status import Status
from psedge.terminal import figures

_STYLES = {
    "kill": "bold red",
    "pause": "bold yellow",
    "throttle": "bold magenta",
    "restart": "cyan",
    "continue": "cyan",
    "whole": "bold green",
    "wrong": "bold red",
    "note": "dim",
    "end": "bold",
}


@dataclass(frozen=True, slots=True)
class Struck:
    """What became of a strike.

    stall_seconds: the longest time in which no push was counted, from the strike until all was
    whole, as far as the supervisor answered. whole_seconds: until everybody had a place again and
    pushes counted; None: that was never seen, for it took too long, or for what `cut_short` says.
    """

    fault: str
    target: str
    stall_seconds: float
    whole_seconds: float | None
    cut_short: str = ""

    @property
    def whole(self) -> str:
        """For people."""
        if self.whole_seconds is None:
            return self.cut_short or "never"
        return f"{self.whole_seconds:.1f} s"


class Teller:
    """Prints lines; on a terminal, a line that says how training goes stays below them."""

    def __init__(self, console: Console, started: float) -> None:
        self._console = console
        self._started = started
        self._spinner: Spinner | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._spinner = console.status("")
            self._spinner.start()

    def say(self, now: float, word: str, text: str) -> None:
        """A line: when, what happened, to whom. now: as `started`."""
        line = Text.assemble(
            (f"{figures.duration(now - self._started):>7}  ", "dim"),
            (f"{word:<9}", _STYLES.get(word, "")),
            (text, "dim" if word == "note" else ""),
        )
        self._console.print(line, highlight=False, soft_wrap=True)

    def show(self, status: Status | None) -> None:
        """How training goes; None while the supervisor does not answer."""
        if self._spinner is not None:
            self._spinner.update(Text(_line(status), style="dim"))

    def close(self) -> None:
        """Take the line away."""
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None


def verdict(
    strikes: Sequence[Struck],
    violations: Sequence[str],
    losses: Sequence[str],
    status: Status | None,
) -> list[Table | Text]:
    """The last page: what was done, how long each took to mend, and whether all promises held."""
    page: list[Table | Text] = [Text()]
    if strikes:
        page += [_table(strikes), Text()]
    struck = figures.plural(len(strikes), "strike")
    page += [Text(f"  reported loss: {loss}", style="yellow") for loss in losses]
    if violations:
        broken = figures.plural(len(violations), "promise")
        page.append(Text(f"broken: {broken} after {struck}", style="bold red"))
        page += [Text(f"  {violation}", style="red") for violation in violations]
        return page
    what = f"survived {struck}" if strikes else "nobody was struck"
    page.append(Text.assemble((what, "bold green" if strikes else "bold"), _end(status)))
    return page


def _table(strikes: Sequence[Struck]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("fault", no_wrap=True)
    table.add_column("struck", no_wrap=True, overflow="ellipsis")
    table.add_column("no push for", justify="right", no_wrap=True)
    table.add_column("all whole after", justify="right", no_wrap=True)
    for each in strikes:
        table.add_row(
            Text(each.fault, style=_STYLES.get(each.fault, "")),
            each.target,
            f"{each.stall_seconds:.1f} s",
            Text(each.whole, style="red" if each.whole == "never" else ""),
        )
    return table


def _end(status: Status | None) -> str:
    if status is None:
        return ""
    done = f"{figures.count(status.samples)} samples"
    if status.samples_total:
        done = f"{figures.count(status.samples)} of {figures.count(status.samples_total)} samples"
    if status.phase == "finished":
        return f": the run has finished, {done}, each exactly once"
    return f": the run goes on, {done} so far"


def _line(status: Status | None) -> str:
    if status is None:
        return "the supervisor does not answer"
    if status.phase == "waiting" and status.waiting_for:
        return f"the run waits for {status.waiting_for}"
    facts: list[str] = [status.phase]
    if status.epochs:
        facts.append(f"epoch {status.epoch} of {status.epochs}")
    facts.append(f"{figures.count(status.samples)} samples")
    facts.append(f"{figures.count(status.rate_samples_per_second)} samples/s")
    alive = sum(worker.state in ("alive", "idle") for worker in status.workers)
    facts.append(figures.plural(alive, "worker"))
    return " · ".join(facts)
