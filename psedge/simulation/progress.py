"""A simulated run while it goes on: a picture that is drawn in place, or a line now and then.

The only module of the simulation that knows the wall clock: it says how much faster than real the
run is, and no simulated code sees what it read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from psedge.simulation.outcome import Progress
from psedge.simulation.timeline import clock_time, entries_of, timeline
from psedge.simulation.trace import Event
from psedge.terminal import figures
from psedge.terminal.screen import restore_terminal, without_control_echo

_FRAME_SECONDS, _LINE_SECONDS = 0.1, 2.0
_NEWS_KEPT, _NEWS_SHOWN = 60, 6
_POINTS_LIMIT = 2000


def real_seconds() -> float:
    """A clock of the machine that simulates, for durations."""
    return time.monotonic()


@dataclass
class Sight:
    """What has been seen of a run so far.

    title: the experiment's name and the seed. word: to the person at the terminal.
    """

    title: str
    about: str
    started: float
    word: str = ""
    latest: Progress = field(default_factory=lambda: Progress(0.0))
    now: float = 0.0
    losses: list[float] = field(default_factory=list)
    news: list[Event] = field(default_factory=list)

    def observe(self, progress: Progress, now: float) -> None:
        """Take one more progress into account. now: real seconds."""
        self.now = now
        self.news = [*self.news, *progress.news][-_NEWS_KEPT:]
        if progress.train_loss is not None and progress.samples != self.latest.samples:
            self.losses.append(progress.train_loss)
            if len(self.losses) > _POINTS_LIMIT:
                del self.losses[::2]
        self.latest = progress

    @property
    def speed_up(self) -> float:
        """Virtual seconds in a real one."""
        passed = self.now - self.started
        return self.latest.virtual_seconds / passed if passed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Real seconds to the last sample at the pace so far; None while nobody knows."""
        done, total = self.latest.samples, self.latest.samples_total
        if not total or done < total / 100:
            return None
        return (self.now - self.started) * max(0, total - done) / done

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        yield self._header(width)
        yield Text()
        yield self._bar(width)
        yield Text(f" {self._facts()}", style="dim", no_wrap=True, overflow="ellipsis")
        if any(self.losses) or self.latest.test_accuracy is not None:
            yield Text()
            yield self._curve(width)
        if self.latest.violations:
            broken = figures.plural(self.latest.violations, "violation")
            yield Text(f" {broken} of psedge's invariants", style="bold red")
        entries = entries_of(self.news)[-_NEWS_SHOWN:]
        if entries:
            yield Text()
            yield timeline(entries, _NEWS_SHOWN)
        if self.word:
            yield Text(f"\n {self.word}", style="yellow")

    def _header(self, width: int) -> Table:
        grid = Table.grid(expand=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        grid.add_column(justify="right", no_wrap=True, max_width=width // 2)
        title = Text.assemble((" psedge ", "bold white on blue"), "  ", (self.title, "bold"))
        phase = Text.assemble((f"{self.about} · ", "dim"), (self.latest.phase, "green"), " ")
        grid.add_row(title, phase)
        return grid

    def _bar(self, width: int) -> Table:
        progress = self.latest
        label = f" epoch {progress.epoch} of {progress.epochs}" if progress.epochs else " training"
        grid = Table.grid(padding=(0, 1))
        if not progress.samples_total:
            grid.add_row(Text(label, style="bold"))
            return grid
        share = min(1.0, progress.samples / progress.samples_total)
        bar = ProgressBar(
            total=progress.samples_total,
            completed=min(progress.samples, progress.samples_total),
            width=max(10, width - len(label) - 8),
            complete_style="cyan",
            finished_style="green",
        )
        grid.add_row(Text(label, style="bold"), bar, Text(f"{100 * share:3.0f} %"))
        return grid

    def _facts(self) -> str:
        progress = self.latest
        facts = [f"{clock_time(progress.virtual_seconds)} virtual", f"{faster(self.speed_up)} real"]
        facts.append(f"{figures.count(progress.samples_per_second)} samples/s")
        facts.append(figures.plural(progress.workers, "worker"))
        if self.seconds_left is not None:
            facts.append(f"{figures.duration(self.seconds_left)} left")
        return " · ".join(facts)

    def _curve(self, width: int) -> Table:
        room = max(8, min(40, width - 52))
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim")
        grid.add_column(justify="right")
        grid.add_column(width=room)
        accuracy = self.latest.test_accuracy
        if accuracy is not None:
            grid.add_row(" test accuracy", Text(figures.percent(accuracy), style="bold green"), "")
        # Gradients that are only replayed come with a loss of 0.
        if any(self.losses):
            grid.add_row(
                " train loss",
                Text(figures.loss(self.latest.train_loss), style="bold"),
                Text(figures.sparkline(self.losses, room), style="cyan"),
            )
        return grid


def faster(times: float) -> str:
    """`120×`, `3.4×`, `0.25×`: how many virtual seconds pass in a real one."""
    if times >= 9.95:
        return f"{figures.count(times)}×"
    return f"{times:.1f}×" if times >= 0.995 else f"{times:.2f}×"


def plain_line(sight: Sight) -> str:
    """The same in one line of text, for logs and pipes."""
    progress = sight.latest
    parts = [clock_time(progress.virtual_seconds), f"{faster(sight.speed_up)} real time"]
    if progress.epochs:
        parts.append(f"epoch {progress.epoch}/{progress.epochs}")
    if progress.samples_total:
        parts.append(f"{100 * progress.samples / progress.samples_total:.0f} %")
    parts.append(f"{figures.count(progress.samples_per_second)} samples/s")
    parts.append(figures.plural(progress.workers, "worker"))
    if progress.train_loss:
        parts.append(f"loss {figures.loss(progress.train_loss)}")
    if progress.test_accuracy is not None:
        parts.append(f"test accuracy {figures.percent(progress.test_accuracy)}")
    if progress.violations:
        parts.append(figures.plural(progress.violations, "violation"))
    return " | ".join(parts)


class Screen(Protocol):
    """Shows a run as it goes on."""

    def show(self, progress: Progress) -> None: ...

    def say(self, text: str) -> None:
        """A word to the person at the terminal."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was found."""
        ...


class LiveScreen:
    """One picture that is drawn over and over again in place, and is gone at the end."""

    def __init__(self, console: Console, title: str, about: str) -> None:
        self._sight = Sight(title, about, real_seconds())
        self._drawn_at = float("-inf")
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._terminal = without_control_echo()
        self._live.start()

    def say(self, text: str) -> None:
        self._sight.word = text
        self._live.update(self._sight, refresh=True)

    def show(self, progress: Progress) -> None:
        now = real_seconds()
        self._sight.observe(progress, now)
        if now - self._drawn_at >= _FRAME_SECONDS:
            self._drawn_at = now
            self._live.update(self._sight, refresh=True)

    def close(self) -> None:
        self._live.stop()
        restore_terminal(self._terminal)


class PlainScreen:
    """A line now and then."""

    def __init__(self, console: Console, title: str, about: str) -> None:
        self._console = console
        self._sight = Sight(title, about, real_seconds())
        self._said_at = real_seconds()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, progress: Progress) -> None:
        now = real_seconds()
        self._sight.observe(progress, now)
        if now - self._said_at >= _LINE_SECONDS:
            self._said_at = now
            self.say(plain_line(self._sight))

    def close(self) -> None:
        pass


def screen_for(console: Console, title: str, about: str) -> Screen:
    """The screen that suits where the console writes to."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveScreen(console, title, about)
    return PlainScreen(console, title, about)


class Silent:
    """Says nothing: a program reads what the command prints."""

    def show(self, progress: Progress) -> None: ...

    def say(self, text: str) -> None: ...

    def close(self) -> None: ...
