"""`psedge simulate --seed`: one run, watched while it goes on, with a page and a picture after."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from psedge.export import write_file
from psedge.protocol.errors import ConfigError
from psedge.run_folder import choose_folder, make_folder
from psedge.simulation.failing import explain, replay_command
from psedge.simulation.interrupts import on_interrupt
from psedge.simulation.outcome import Enough, Order, Outcome, Prepare, Progress, Simulate
from psedge.simulation.progress import Screen, Silent, real_seconds, screen_for
from psedge.simulation.report import as_json, figures_of
from psedge.simulation.summary import Page
from psedge.simulation.timeline import as_text, entries_of

if TYPE_CHECKING:
    from psedge.simulation.command import SimulateOrder

FIGURES_FILE, TIMELINE_FILE, PICTURE_FILE = "simulation.json", "timeline.txt", "simulation.png"


class OneRun:
    """One seed, from the order to the last line on the terminal."""

    def __init__(
        self, asked: SimulateOrder, order: Order, console: Console, prepare: Prepare
    ) -> None:
        self._asked = asked
        self._order = order
        self._console = console
        self._prepare = prepare
        self._name = order.experiment.name
        self._files: list[tuple[str, str]] = []
        self._replay: list[tuple[str, str]] = []

    def run(self) -> int:
        """Simulate, write what was asked for, print; 1 if it failed or an invariant broke."""
        asked = self._asked
        folder = None
        if asked.out is not None:
            if (asked.out / "config.toml").exists():
                raise ConfigError(f"--out {asked.out} holds a run already: name another folder")
            folder = choose_folder(self._name, asked.out, False, 0.0)
            make_folder(folder)
        wants_lanes = not asked.as_json or asked.plot is not None or folder is not None
        self._order = replace(self._order, lanes=wants_lanes)
        simulate = self._prepared()
        started = real_seconds()
        outcome = self._watched(simulate)
        took = real_seconds() - started
        if folder is not None:
            self._keep(outcome, folder)
        problem = self._draw(outcome, folder)
        if outcome.violations:
            self._explain(outcome, simulate, took)
        self._print(outcome, took)
        if problem is not None:
            raise problem
        interrupted = outcome.phase == "cut" and bool(outcome.reason)
        return 1 if outcome.violations or outcome.phase == "failed" or interrupted else 0

    def _screen(self) -> Screen:
        if self._asked.as_json and not self._console.is_terminal:
            return Silent()
        about = f"{self._order.experiment.sync.mode} · {self._order.work} work"
        return screen_for(self._console, f"{self._name}  seed {self._order.seed}", about)

    def _prepared(self) -> Simulate:
        """The model, its gradients or its data: what a run begins with."""
        # Drawn when told, not by a thread of its own: threads are barred while a run goes on.
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            return self._prepare(
                self._order,
                lambda text: live.update(Text(f" preparing: {text}", style="dim"), refresh=True),
            )

    def _watched(self, simulate: Simulate) -> Outcome:
        screen = self._screen()
        asked = False

        def stop(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            if asked:
                raise KeyboardInterrupt
            asked = True
            screen.say("stopping within a virtual second; Ctrl-C again ends at once")

        def show(progress: Progress) -> None:
            screen.show(progress)
            if asked:
                raise Enough("stopped by Ctrl-C")

        with on_interrupt(stop):
            try:
                return simulate(self._order, show)
            finally:
                screen.close()

    def _keep(self, outcome: Outcome, folder: Path) -> None:
        """The run folder of the virtual disk, the figures and the timeline."""
        for name, content in outcome.files.items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_file(folder / name, content)
        figures = figures_of(outcome, self._order.experiment)
        write_file(folder / FIGURES_FILE, as_json(figures).encode())
        entries = entries_of(outcome.told(), outcome.violations)
        write_file(folder / TIMELINE_FILE, as_text(entries).encode())
        self._files.append(("run folder", str(folder)))

    def _draw(self, outcome: Outcome, folder: Path | None) -> ConfigError | None:
        """The picture, if asked for; returns why it could not be written where it was to be."""
        plot = self._asked.plot
        if plot is None and folder is None:
            return None
        from psedge.simulation.plot import picture

        place = plot if plot is not None else (folder or Path()) / PICTURE_FILE
        try:
            write_file(place, picture(outcome, self._name))
        except ConfigError as error:
            if plot is not None:
                return error
            self._console.print(f"no picture: {error}", style="yellow", markup=False)
            return None
        self._files.append(("picture", str(place)))
        return None

    def _explain(self, outcome: Outcome, simulate: Simulate, took: float) -> None:
        """How to see the violation again, and with how few faults."""
        given, order = self._asked.given, self._order
        self._replay.append(("to replay", replay_command(given, order, given.faults)))
        found = explain(given, order, outcome, simulate, took, self._console)
        if found is not None:
            plan, cause, command = found
            shrunk = f"{plan} ({len(cause.faults)} of {cause.before})"
            self._files.append(("faults that matter", shrunk))
            self._replay.append(("with these alone", command))

    def _print(self, outcome: Outcome, took: float) -> None:
        figures = figures_of(outcome, self._order.experiment)
        if self._asked.as_json:
            sys.stdout.write(as_json(figures))
            for label, text in (*self._files, *self._replay):
                sys.stderr.write(f"{label}: {text}\n")
            return
        page = Page(
            self._name,
            outcome,
            figures,
            self._order.checkers,
            took,
            tuple(self._files),
            tuple(self._replay),
        )
        self._console.print(page)
