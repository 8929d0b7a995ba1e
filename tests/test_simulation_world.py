"""A virtual world as a whole: hosts come and go, devices take their time, the figures add up."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch

from psedge.hosting import HostedServer
from psedge.protocol.errors import AddressError
from psedge.protocol.ports import Clock
from psedge.simulation.faults.kinds import (
    Crash,
    Fault,
    Freeze,
    Join,
    Leave,
    Partition,
    PowerCut,
    Slow,
)
from psedge.simulation.faults.plan import FaultPlan
from psedge.simulation.outcome import Order, Outcome
from psedge.simulation.recovery import Recoveries
from psedge.simulation.run import simulate
from psedge.simulation.work import ProblemWork, Told
from psedge.simulation.world import RESUMES_LIMIT
from psedge.toml_config import load_config
from psedge.work import Parts

SAMPLES = 256
#: No copies: what a server holds goes with it.
ALONE = {"replication": {"replicas": 1}}


def order_of(
    *faults: Fault,
    devices: list[dict[str, Any]] | None = None,
    sections: dict[str, Any] | None = None,
    **cluster: Any,
) -> Order:
    experiment = load_config(
        {
            "name": "kitchen",
            "model": {"factory": "mlp"},
            "data": {"dataset": "npz", "path": "problem.npz", "batch_size": 8},
            "optimizer": {"lr": 0.05},
            "schedule": {"length": 4},
            "sync": {"mode": "asp"},
            "checkpoint": {"every_seconds": 5},
            "cluster": {
                "servers": 2,
                "lease_seconds": 5,
                "devices": devices or [{"profile": "raspberry-pi-4b", "name": "pi", "count": 2}],
                **cluster,
            },
            **(sections or {}),
        }
    )
    return Order(experiment, seed=1, plan=FaultPlan(faults), limit_seconds=600.0)


def done(order: Order) -> Outcome:
    return simulate(order, work=ProblemWork(order.experiment, samples=SAMPLES))


def run(*faults: Fault, **options: Any) -> Outcome:
    return done(order_of(*faults, **options))


def computing_seconds(outcome: Outcome, host: str) -> float:
    lane = [*outcome.lanes[host], (outcome.virtual_seconds, "away")]
    pairs = itertools.pairwise(lane)
    return sum(end - start for (start, state), (end, _) in pairs if state == "computing")


def test_a_quiet_run_visits_every_sample_of_every_epoch() -> None:
    outcome = run()
    assert outcome.result is not None
    assert (outcome.phase, outcome.violations) == ("finished", ())
    assert outcome.result.samples_applied == 4 * SAMPLES
    assert outcome.profiles == {
        "server-0": "pc", "server-1": "pc", "pi-1": "raspberry-pi-4b", "pi-2": "raspberry-pi-4b",
    }  # fmt: skip


def test_devices_compute_as_long_as_their_profile_says() -> None:
    outcome = run(devices=[{"profile": "raspberry-pi-4b", "name": "pi"}])
    pushes = 4 * SAMPLES // 8
    alone = pushes * (0.04 + 8 / 24.0)
    # Codecs and the exchange itself take some processor time besides.
    assert alone < computing_seconds(outcome, "pi-1") < 1.1 * alone


def test_a_schedule_and_a_fault_slow_a_device_together() -> None:
    slows = [{"at": 0.0, "factor": 2.0}]
    plain = run(devices=[{"profile": "raspberry-pi-4b", "name": "pi"}])
    slow = run(
        Slow(on="pi-1", at=0.0, factor=3.0),
        devices=[{"profile": "raspberry-pi-4b", "name": "pi", "slows": slows}],
    )
    ratio = computing_seconds(slow, "pi-1") / computing_seconds(plain, "pi-1")
    assert ratio == pytest.approx(6.0, rel=0.05)


def test_a_late_joiner_and_a_leaver_follow_their_schedules() -> None:
    outcome = run(
        devices=[
            {"profile": "raspberry-pi-4b", "name": "pi"},
            {"profile": "raspberry-pi-4b", "name": "late", "joins_at": 10.0},
            {"profile": "raspberry-pi-4b", "name": "early", "leaves_at": 5.0},
        ],
        wait_seconds=1.0,
    )
    assert outcome.phase == "finished"
    assert min(at for at, state in outcome.lanes["late-1"] if state == "computing") >= 10.0
    assert max(at for at, state in outcome.lanes["early-1"] if state == "computing") < 6.0
    assert outcome.violations == ()


def test_a_crashed_worker_comes_back_and_its_recovery_is_measured() -> None:
    outcome = run(Crash(on="pi-2", at=8.0, restart_after=4.0))
    assert outcome.phase == "finished"
    assert outcome.violations == ()
    (recovery,) = outcome.recoveries
    assert (recovery.node, recovery.at, recovery.what) == ("pi-2", 8.0, "pushes of pi-2")
    assert recovery.seconds is not None
    assert 4.0 < recovery.seconds < 15.0


def test_it_is_measured_how_long_a_worker_is_cut_off() -> None:
    outcome = run(Partition(between=("pi-2", "servers"), at=8.0, seconds=6.0))
    assert outcome.phase == "finished"
    (of_the_worker,) = [one for one in outcome.recoveries if one.node == "pi-2"]
    assert of_the_worker.seconds is not None
    assert 6.0 < of_the_worker.seconds < 25.0


def test_a_run_whose_first_server_loses_power_goes_on_from_its_checkpoint() -> None:
    outcome = run(PowerCut(on="server-0", at=14.0, restart_after=3.0), sections=ALONE)
    assert outcome.phase == "finished"
    assert outcome.violations == ()
    assert outcome.result is not None
    assert outcome.result.resumed_from_samples
    assert any("goes back to the checkpoint" in event.text for event in outcome.events)


def test_the_operator_resumes_a_run_that_failed_for_want_of_a_shard() -> None:
    outcome = run(Crash(on="server-1", at=14.0, restart_after=1.0), sections=ALONE)
    assert outcome.phase == "finished"
    assert outcome.violations == ()
    assert any(event.kind == "operator" for event in outcome.events)


def test_a_frozen_worker_is_taken_for_dead_and_joins_again() -> None:
    outcome = run(Freeze(on="pi-1", at=8.0, seconds=12.0))
    assert outcome.phase == "finished"
    assert outcome.violations == ()
    assert any("taken for dead" in event.text for event in outcome.events)


@pytest.mark.parametrize("at", [8.0, 8.05, 8.3])
def test_a_freeze_costs_a_worker_the_time_that_it_lasts(at: float) -> None:
    """Of a batch of 0.37 s, what was left before it is left after it."""
    (recovery,) = run(Freeze(on="pi-1", at=at, seconds=3.0)).recoveries
    assert recovery.seconds is not None
    assert 3.0 < recovery.seconds < 3.6


def test_without_checkers_and_lanes_a_run_is_the_same() -> None:
    order = order_of(Crash(on="pi-2", at=8.0, restart_after=4.0))
    unwatched = dataclasses.replace(order, checkers=False, lanes=False)
    assert done(unwatched).digest == done(order).digest


def test_a_run_that_is_not_over_in_time_is_cut() -> None:
    outcome = run(Crash(on="workers", at=1.0))
    assert (outcome.phase, outcome.virtual_seconds) == ("cut", 600.0)


def test_a_server_that_leaves_in_order_is_no_crash() -> None:
    outcome = run(Leave(on="server-1", at=10.0, restart_after=6.0))
    assert (outcome.phase, outcome.violations) == ("finished", ())
    assert outcome.recoveries == ()
    assert all(state != "dead" for _, state in outcome.lanes["server-1"])
    assert not any(event.kind == "operator" for event in outcome.events)


def test_nothing_is_started_once_the_run_is_over() -> None:
    """The supervisor that a late fault would start has nothing to say of the run that ended."""
    outcome = run(
        Leave(on="supervisor", at=10.0),
        Freeze(on="pi-1", at=9.0, seconds=30.0),
        Join(on="supervisor", at=16.0),
    )
    assert outcome.phase == "stopped"
    assert outcome.virtual_seconds > 16.0


def test_the_operator_leaves_a_machine_without_power_alone() -> None:
    """The first server is cut off in the seconds after which it would have resumed the run."""
    loss = Crash(on="server-1", at=10.0, restart_after=1.0)
    events = run(loss, sections=ALONE).events
    failed = next(event.at for event in events if event.kind == "operator") - 5.0
    cut = PowerCut(on="server-0", at=failed + 2.0, restart_after=20.0)
    outcome = run(loss, cut, sections=ALONE)
    assert (outcome.phase, outcome.violations) == ("finished", ())
    assert not any(event.kind == "operator" for event in outcome.events)
    assert [event.at for event in outcome.events if "continuing after" in event.text] == [
        pytest.approx(failed + 22.0, abs=1.0)
    ]


def test_training_is_back_with_a_push_that_began_after_its_server_was_struck() -> None:
    recoveries = Recoveries()
    recoveries.struck(10.0, "server-0", serves=True)
    recoveries.struck(10.5, "pi-2", serves=False)
    recoveries.pushed(10.01, "pi-1", 9.9)
    recoveries.pushed(12.0, "pi-2", 10.2)
    recoveries.struck(13.0, "pi-1", serves=False)
    assert [(one.what, one.seconds) for one in recoveries.all()] == [
        ("training", 2.0), ("pushes of pi-2", 1.5), ("pushes of pi-1", None),
    ]  # fmt: skip


def test_a_run_that_cannot_be_resumed_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator tries again, and not for ever."""
    opened = HostedServer.open

    async def once(host: str, *arguments: Any, clock: Clock, **options: Any) -> HostedServer:
        if host == "server-0" and clock.now() > 1.0:
            raise AddressError("the port is taken")
        return await opened(host, *arguments, clock=clock, **options)

    monkeypatch.setattr(HostedServer, "open", once)
    outcome = run(Crash(on="server-0", at=14.0, restart_after=1.0))
    assert (outcome.phase, outcome.reason) == ("failed", "the port is taken")
    resumes = [event for event in outcome.events if event.kind == "operator"]
    assert len(resumes) == RESUMES_LIMIT


class WithChance(ProblemWork):
    """Each worker's model begins with what torch draws, as that of a user may."""

    drawn: tuple[float, ...] = ()

    def parts(self, worker: int, told: Told) -> Parts:
        self.drawn += (float(torch.rand(())),)
        return super().parts(worker, told)


def test_torch_draws_by_the_seed_and_is_left_as_it_was() -> None:
    order = order_of()
    first, second, other = (WithChance(order.experiment, samples=SAMPLES) for _ in range(3))
    before = torch.random.get_rng_state()
    simulate(order, work=first)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    simulate(order, work=second)
    simulate(dataclasses.replace(order, seed=2), work=other)
    assert len(set(first.drawn)) == 2
    assert first.drawn == second.drawn != other.drawn


def test_a_resumed_run_counts_the_bytes_of_all_its_lives() -> None:
    cut = PowerCut(on="server-0", at=14.0, restart_after=3.0)
    quiet, resumed = run(sections=ALONE), run(cut, sections=ALONE)
    assert quiet.result is not None
    assert resumed.result is not None
    # What moved between the checkpoint and the power cut is lost with the work that it was for.
    assert resumed.result.bytes_pushed > 0.95 * quiet.result.bytes_pushed
    assert resumed.result.bytes_pulled > 0.95 * quiet.result.bytes_pulled


def test_a_run_without_anyone_left_to_work_fails_and_says_why() -> None:
    order = dataclasses.replace(order_of(Crash(on="workers", at=1.0)), limit_seconds=1e6)
    outcome = done(order)
    assert outcome.phase == "failed"
    assert "no push was applied for 6 virtual hours" in outcome.reason
    assert outcome.virtual_seconds < 7 * 3600.0
