"""Outcomes of simulated runs, made up by hand: what pictures and reports are tested with."""

from __future__ import annotations

import math
import os
import random
import signal
from collections.abc import Callable

import msgspec

from psedge.protocol.errors import ConfigError
from psedge.protocol.status import Evaluation
from psedge.simulation.faults.kinds import Crash
from psedge.simulation.faults.plan import FaultPlan
from psedge.simulation.outcome import (
    Enough,
    HostTraffic,
    Order,
    Outcome,
    Progress,
    Recovery,
    Simulate,
    Violation,
)
from psedge.simulation.trace import Event
from psedge.supervisor.run_rows import EvaluationRow, ProgressRow, Result, Row

RESULT = Result(
    run="kitchen",
    phase="finished",
    reason="",
    test_accuracy=0.914,
    test_loss=0.31,
    samples_applied=120_000,
    samples_per_second=412.0,
    seconds=291.0,
    pushes_applied=3_750,
    pushes_refused=2,
    bytes_pushed=812_000_000,
    bytes_pulled=806_000_000,
    staleness_max=3,
    lag_max=9,
    workers=4,
    servers=1,
    best_accuracy=0.918,
    mode="ssp",
)


def outcome(
    pis: int = 2,
    nanos: int = 2,
    *,
    seconds: float = 300.0,
    step_seconds: float = 2.0,
    violations: tuple[Violation, ...] = (),
    finished: bool = True,
    real_work: bool = True,
) -> Outcome:
    """A run in which pi-2 crashes at a third of the time and comes back."""
    hosts = {"server-0": "pc"}
    hosts |= {f"nano-{number}": "jetson-nano" for number in range(1, nanos + 1)}
    hosts |= {f"pi-{number}": "raspberry-pi-4b" for number in range(1, pis + 1)}
    workers = [host for host in hosts if host != "server-0"]
    crash = seconds / 3
    events = [Event(0.4 + index / 50, "join", host, "joined") for index, host in enumerate(workers)]
    events += [
        Event(1.0, "run", "server-0", "training begins"),
        Event(crash, "fault", "pi-2", "crash, back after 20 s"),
        Event(crash + 20, "join", "pi-2", "joined"),
        Event(seconds / 2, "checkpoint", "server-0", "checkpoint 1 at 60,000 samples"),
        Event(seconds, "run", "server-0", "finished"),
    ]
    return Outcome(
        seed=7,
        phase="finished" if finished else "cut",
        virtual_seconds=seconds,
        result=RESULT if finished else None,
        profiles=hosts,
        servers=("server-0",),
        faults=("pi-2: crash, back after 20 s",),
        violations=violations,
        recoveries=(Recovery(crash, "pi-2", "pushes of pi-2", 23.5),),
        digest="00ff" * 8,
        events=tuple(sorted(events, key=lambda event: event.at)),
        lanes={host: _lane(host, seconds, step_seconds, crash) for host in hosts},
        rows=tuple(_rows(seconds, real_work)),
        traffic={host: HostTraffic(1_000_000, 2_000_000) for host in hosts},
    )


def _lane(host: str, seconds: float, step: float, crash: float) -> list[tuple[float, str]]:
    chance = random.Random(host)
    if host == "server-0":
        return [(0.0, "waiting")]
    lane = [(0.0, "waiting")]
    at = 0.4
    while at < seconds:
        if host == "pi-2" and crash < at < crash + 20:
            lane = [change for change in lane if change[0] < crash]
            lane += [(crash, "dead"), (crash + 20, "waiting")]
            at = crash + 21
        lane.append((at, "computing"))
        at += step * (0.7 if host.startswith("pi") else 0.3) * chance.uniform(0.9, 1.1)
        lane.append((at, "transferring"))
        at += step * 0.15 * chance.uniform(0.8, 1.6)
        lane.append((at, "waiting"))
        at += step * chance.uniform(0.0, 0.2 if host.startswith("pi") else 0.7)
    return sorted((at, state) for at, state in lane if at < seconds)


def _rows(seconds: float, real_work: bool) -> list[Row]:
    rows: list[Row] = []
    count = 150
    for index in range(1, count + 1):
        at, samples = seconds * index / count, 800 * index
        loss = 2.3 * math.exp(-3 * index / count) + 0.05 * math.sin(index)
        rows.append(
            ProgressRow(
                samples, at, index / 15, loss if real_work else None, 400.0, workers=4, timestamp=at
            )
        )
        if index % 15 == 0 and real_work:
            measured = Evaluation(samples, loss + 0.05, 1 - 0.35 * loss)
            rows.append(EvaluationRow(samples, at, index / 15, measured, timestamp=at))
    return rows


def simulate(order: Order, progress: Callable[[Progress], None] | None = None) -> Outcome:
    """In the place of the real one: odd seeds break an invariant if there is a crash of pi-2."""
    plan = order.plan or FaultPlan()
    crashes = any(isinstance(fault, Crash) and fault.on == "pi-2" for fault in plan.faults)
    broken = order.seed % 2 == 1 and crashes
    violations = (Violation(100.25, 4, "pi-2", "ran 5 steps ahead"),) if broken else ()
    made = outcome(violations=violations)
    if progress is not None:
        for share in (0.25, 0.5, 1.0):
            progress(
                Progress(
                    virtual_seconds=300 * share,
                    phase="training",
                    epoch=round(10 * share),
                    epochs=10,
                    samples=round(120_000 * share),
                    samples_total=120_000,
                    samples_per_second=400.0,
                    train_loss=2.0 - share,
                    workers=4,
                    news=tuple(event for event in made.events if event.at <= 300 * share),
                )
            )
    return msgspec.structs.replace(
        made,
        seed=order.seed,
        drawn=plan,
        faults=tuple(f"{fault.on}: crash" for fault in plan.faults if isinstance(fault, Crash)),
        files={"metrics.jsonl": b"{}\n", "checkpoints/1/model.safetensors": b"tensors"},
        result=msgspec.structs.replace(RESULT, run=order.experiment.name),
    )


def crash_on_seed_2(order: Order, progress: object = None) -> Outcome:
    """A simulation that does not always live to tell."""
    if order.seed == 2:
        os._exit(3)
    return simulate(order)


def fail_on_seed_1(order: Order, progress: object = None) -> Outcome:
    """A simulation with a mistake in itself."""
    if order.seed == 1:
        raise ZeroDivisionError("in the simulator")
    return simulate(order)


def patient(order: Order, progress: Callable[[Progress], None] | None = None) -> Outcome:
    """Somebody presses Ctrl-C in the middle."""
    assert progress is not None
    signal.raise_signal(signal.SIGINT)
    try:
        progress(Progress(10.0))
    except Enough as enough:
        return msgspec.structs.replace(
            simulate(order), phase="cut", reason=str(enough), result=None
        )
    raise AssertionError("the run went on")


def impatient(order: Order, progress: object = None) -> Outcome:
    """Somebody presses Ctrl-C twice."""
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    raise AssertionError("the run went on")


def prepare(order: Order, notify: Callable[[str], None]) -> Simulate:
    notify("nothing")
    return simulate


def prepare_crash(order: Order, notify: Callable[[str], None]) -> Simulate:
    return crash_on_seed_2


def prepare_failure(order: Order, notify: Callable[[str], None]) -> Simulate:
    return fail_on_seed_1


def prepare_refusal(order: Order, notify: Callable[[str], None]) -> Simulate:
    raise ConfigError("100 workers would take 900 GB of memory")


def prepare_patient(order: Order, notify: Callable[[str], None]) -> Simulate:
    return patient


def prepare_impatient(order: Order, notify: Callable[[str], None]) -> Simulate:
    return impatient
