"""Many seeds of one order, each in turn on one of several processes; reports in order of seeds.

Processes are spawned, not forked: threads of numerical libraries do not survive a fork. A process
that dies, for want of memory for instance, costs the seed that it was at and nothing else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

import msgspec

from psedge.protocol.errors import PsedgeError, UserError
from psedge.simulation.outcome import Order, Outcome, Prepare, Progress, Simulate, Violation
from psedge.simulation.progress import real_seconds
from psedge.simulation.report import figures_of

#: Seeds handed out beyond the oldest one that is not done; their reports wait in memory.
_AHEAD = 256
_FAREWELL_SECONDS = 5.0
#: What a process is sent instead of a seed when there are none left.
_NO_MORE = b""


class SeedReport(msgspec.Struct, frozen=True):
    """What one seed came to.

    figures: as `--json` prints them; empty if it crashed. faults: how many struck. crash: what the
    simulation itself ended with, when it was no end of a run; mistake: what the user can mend.
    """

    seed: int
    phase: str
    virtual_seconds: float = 0.0
    real_seconds: float = 0.0
    faults: int = 0
    violations: tuple[Violation, ...] = ()
    figures: dict[str, Any] = {}
    crash: str = ""
    mistake: str = ""

    @property
    def broken(self) -> bool:
        """Whether psedge did what it must not do."""
        return bool(self.violations or self.crash)


@dataclass(slots=True)
class _Hand:
    """A process and the seed that it is at."""

    process: Any
    line: Connection
    seed: int | None = None


def report_seed(order: Order, seed: int, simulate: Simulate) -> SeedReport:
    """Simulate one seed; whatever it ends with becomes a report."""
    started = real_seconds()
    order = replace(order, seed=seed)
    try:
        outcome = simulate(order)
    except UserError as error:
        return SeedReport(seed, "refused", mistake=str(error))
    except PsedgeError as error:
        crash = f"{type(error).__name__}: {error}"
        return SeedReport(seed, "crashed", real_seconds=real_seconds() - started, crash=crash)
    except Exception:
        crash = traceback.format_exc()
        return SeedReport(seed, "crashed", real_seconds=real_seconds() - started, crash=crash)
    return SeedReport(
        seed,
        outcome.phase,
        outcome.virtual_seconds,
        real_seconds() - started,
        len(outcome.faults),
        outcome.violations,
        figures_of(outcome, order.experiment),
    )


def sweep(
    order: Order, seeds: Sequence[int], processes: int, prepare: Prepare
) -> Iterator[SeedReport]:
    """The reports of all seeds, in their order, as soon as they and those before them are there.

    prepare: a function of a module that can be imported, called once in each process.
    Whoever stops asking ends the processes.
    """
    context = multiprocessing.get_context("spawn")
    hands: list[_Hand] = []
    done: dict[int, SeedReport] = {}
    left = list(reversed(seeds))
    due = 0
    try:
        hands += (_hire(context, order, prepare) for _ in range(min(processes, len(seeds))))
        while due < len(seeds):
            for hand in hands:
                if hand.seed is None and left and len(seeds) - len(left) < due + _AHEAD:
                    _hand_out(hand, left.pop())
            busy = {hand.line: hand for hand in hands if hand.seed is not None}
            for line in wait(list(busy)):
                hand = busy[line]  # type: ignore[index]
                report = _collect(hand)
                done[report.seed] = report
                if not hand.process.is_alive() or hand.line.closed:
                    hands[hands.index(hand)] = _hire(context, order, prepare)
            while due < len(seeds) and seeds[due] in done:
                yield done.pop(seeds[due])
                due += 1
    finally:
        _dismiss(hands)


def processes_for(seeds: int, bytes_each: int = 0, available_bytes: int | None = None) -> int:
    """As many as there are cores, and as the memory has room for, but at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    most = min(seeds, cores or 1)
    if bytes_each and available_bytes is not None:
        most = min(most, available_bytes // bytes_each)
    return max(1, most)


def _hire(context: Any, order: Order, prepare: Prepare) -> _Hand:
    mine, other = context.Pipe()
    process = context.Process(target=_serve, args=(other, order, prepare), daemon=True)
    with _one_thread_each():
        process.start()
    other.close()
    return _Hand(process, mine)


def _hand_out(hand: _Hand, seed: int) -> None:
    hand.seed = seed
    # A process that has died says so when it is listened to.
    with contextlib.suppress(OSError):
        hand.line.send_bytes(str(seed).encode())


def _collect(hand: _Hand) -> SeedReport:
    assert hand.seed is not None
    seed, hand.seed = hand.seed, None
    try:
        return msgspec.msgpack.decode(hand.line.recv_bytes(), type=SeedReport)
    except (EOFError, OSError):
        hand.line.close()
        hand.process.join(_FAREWELL_SECONDS)
        return SeedReport(seed, "crashed", crash=_obituary(hand.process.exitcode))


def _obituary(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed, as the system does when memory runs out"
    if code is not None and code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


def _dismiss(hands: Sequence[_Hand]) -> None:
    """End all processes: at once those that are at work, the others at the end of their list."""
    for hand in hands:
        if hand.seed is not None:
            hand.process.terminate()
        elif not hand.line.closed:
            with contextlib.suppress(OSError):
                hand.line.send_bytes(_NO_MORE)
    for hand in hands:
        hand.process.join(_FAREWELL_SECONDS)
        if hand.process.is_alive():
            hand.process.kill()
            hand.process.join(_FAREWELL_SECONDS)
        hand.line.close()


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Cores are shared among the processes; numerical libraries take all of them otherwise."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _serve(line: Connection, order: Order, prepare: Prepare) -> None:
    """A process of its own: takes seeds, answers with reports, ends with its parent."""
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    simulate: Simulate | None = None

    def once(order: Order, progress: Callable[[Progress], None] | None = None) -> Outcome:
        nonlocal simulate
        simulate = simulate or prepare(order, lambda text: None)
        return simulate(order, progress)

    with contextlib.suppress(EOFError, OSError):
        while (asked := line.recv_bytes()) != _NO_MORE:
            line.send_bytes(msgspec.msgpack.encode(report_seed(order, int(asked), once)))
