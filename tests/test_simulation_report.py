"""What is said about a simulated run: shares of time, timeline, strips, figures and progress."""

from __future__ import annotations

import io

import msgspec
import numpy as np
import pytest
import simulated
from rich.console import Console, RenderableType

from psedge.config import ClusterConfig, Experiment
from psedge.simulation.faults.kinds import Freeze
from psedge.simulation.faults.plan import FaultPlan
from psedge.simulation.lanes import STATES, Kind, kinds_of, mean_shares, sampled, shares
from psedge.simulation.lanes import use_of_time as use
from psedge.simulation.outcome import Outcome, Progress, Violation
from psedge.simulation.progress import LiveScreen, PlainScreen, Sight, faster, plain_line
from psedge.simulation.report import figures_of, seconds_to_accuracy
from psedge.simulation.strips import strips
from psedge.simulation.summary import Page
from psedge.simulation.timeline import (
    Entry,
    Gap,
    as_text,
    condensed,
    entries_of,
    shortened,
    timeline,
)
from psedge.simulation.trace import Event
from psedge.supervisor.run_rows import Result

EXPERIMENT = Experiment(name="kitchen", seed=5, cluster=ClusterConfig(servers=2))


def drawn(picture: RenderableType, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(picture)
    return capture.get()


def test_shares_are_those_of_each_stretch() -> None:
    lane = [(1.0, "computing"), (2.0, "waiting"), (3.5, "dead")]
    found = shares(lane, np.array([0.0, 1.0, 3.0, 4.0]))
    assert found.shape == (len(STATES), 3)
    assert found[:, 0].sum() == 0
    assert found[:, 1].tolist() == [0.5, 0, 0.5, 0, 0]
    assert found[:, 2].tolist() == [0, 0, 0.5, 0, 0.5]


def test_a_lane_goes_on_past_its_last_change_and_an_empty_one_says_nothing() -> None:
    edges = np.array([10.0, 20.0])
    assert shares([(0.0, "dead")], edges)[:, 0].tolist() == [0, 0, 0, 0, 1]
    assert not shares([], edges).any()


def test_means_over_devices_and_over_the_run() -> None:
    lanes = [[(0.0, "computing")], [(0.0, "waiting")]]
    assert mean_shares(lanes, np.array([0.0, 1.0]))[:, 0].tolist() == [0.5, 0, 0.5, 0, 0]
    assert use(lanes, 0.0, 5.0)["computing"] == 0.5
    assert use(lanes, 0.0, 0.0)["computing"] == 0.0


def test_kinds_are_in_the_order_of_the_config() -> None:
    outcome = simulated.outcome(pis=3, nanos=1)
    found = kinds_of(outcome.lanes, outcome.profiles, outcome.servers)
    assert [kind.label for kind in found] == ["jetson-nano", "raspberry-pi-4b × 3"]


def test_a_server_is_shown_when_there_is_something_to_see() -> None:
    outcome = simulated.outcome()
    lanes = {**outcome.lanes, "server-0": [(0.0, "waiting"), (9.0, "dead")]}
    found = kinds_of(lanes, outcome.profiles, outcome.servers)
    assert found[0] == Kind("server", ("server-0",))


def test_a_sample_of_hosts_has_those_that_failed() -> None:
    hosts = tuple(f"pi-{number}" for number in range(50))
    lanes = {host: [(0.0, "computing")] for host in hosts}
    lanes["pi-33"] = [(0.0, "dead")]
    found = sampled(Kind("pi", hosts), lanes, 5, 10.0)
    assert len(found) == 5
    assert "pi-33" in found
    assert list(found) == sorted(found, key=hosts.index)


def test_the_same_at_several_hosts_is_one_entry() -> None:
    events = [Event(0.1 * n, "join", f"pi-{n}", "joined") for n in range(1, 9)]
    events.append(Event(60.0, "join", "pi-9", "joined"))
    found = entries_of(events)
    assert [len(entry.nodes) for entry in found] == [8, 1]
    assert found[0].place == "pi-1, pi-2, pi-3 and 5 more"


def test_choices_of_codecs_are_short() -> None:
    reason = "{0}: 68.6 Mb/s up, 0.22 s as float32, 31 ms as {0}; {1}: 68.6 Mb/s down, 0.2 s as x"
    events = [
        Event(2.3, "note", "server-0", f"worker pi-{n}: {reason.format('q4', codec)}")
        for n, codec in enumerate(("q4", "q8+lz4", "q4"), 1)
    ]
    found = entries_of(events)
    assert [(entry.place, entry.text) for entry in found] == [
        ("pi-1, pi-3", "chose q4 both ways"),
        ("pi-2", "chose q4 pushes, q8+lz4 pulls"),
    ]


def test_checkpoints_in_a_row_are_one_entry() -> None:
    entries = [Entry(10.0 * n, "checkpoint", f"checkpoint {n}", ("server-0",)) for n in range(1, 9)]
    entries.insert(4, Entry(45.0, "fault", "crash", ("pi-1",)))
    found = condensed(entries)
    assert [entry.text for entry in found] == [
        "checkpoint 1, … checkpoint 4 at 0:40.0",
        "crash",
        "checkpoint 5, … checkpoint 8 at 1:20.0",
    ]
    assert len(as_text(entries).splitlines()) == 9


def test_the_end_of_a_fault_is_told_apart_from_its_beginning() -> None:
    plan = FaultPlan((Freeze(on="pi-1", at=5.0, seconds=2.0),))
    events = (
        Event(5.0, "fault", "pi-1", plan.faults[0].what()),
        Event(7.0, "fault", "pi-1", plan.faults[0].over()),
    )
    outcome = Outcome(seed=0, phase="finished", virtual_seconds=9.0, drawn=plan, events=events)
    assert [event.kind for event in outcome.told()] == ["fault", "recovery"]


def test_violations_stand_where_they_happened_and_only_once() -> None:
    broken = Violation(2.0, 3, "pi-1", "differs")
    events = [
        Event(1.0, "run", "", "training begins"),
        Event(2.0, "violation", "pi-1", "invariant 3: differs"),
        Event(3.0, "run", "", "finished"),
    ]
    found = entries_of(events, [broken])
    assert [entry.kind for entry in found] == ["run", "violation", "run"]


def test_a_long_timeline_keeps_what_tells_most() -> None:
    entries = [Entry(float(n), "note", f"note {n}", ()) for n in range(100)]
    entries[50] = Entry(50.0, "violation", "invariant 1: lost", ("pi-1",))
    entries[60] = Entry(60.0, "fault", "crash", ("pi-1",))
    found = shortened(entries, 10)
    shown = [one for one in found if isinstance(one, Entry)]
    assert len(shown) in (10, 11)
    assert entries[50] in shown
    assert entries[60] in shown
    assert entries[0] in shown
    assert entries[99] in shown
    assert len(shown) + sum(one.entries for one in found if isinstance(one, Gap)) == 100
    assert "more" in drawn(timeline(entries, 10), 80)
    assert len(as_text(entries).splitlines()) == 100


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
@pytest.mark.parametrize(("pis", "nanos"), [(2, 2), (80, 20)])
def test_a_page_fits_the_terminal(width: int, pis: int, nanos: int) -> None:
    broken = (Violation(2.0, 3, "pi-1", "differs in " + "many " * 40),)
    outcome = simulated.outcome(pis, nanos, seconds=60.0, violations=broken)
    page = Page("kitchen", outcome, figures_of(outcome, EXPERIMENT), True, 2.0)
    lines = drawn(page, width).splitlines()
    assert max(len(line) for line in lines) <= width


def test_strips_show_hosts_or_kinds() -> None:
    few, many = simulated.outcome(), simulated.outcome(pis=80, nanos=20, seconds=60.0)
    texts = [
        drawn(
            strips(
                kinds_of(one.lanes, one.profiles, one.servers), one.lanes, one.virtual_seconds, 80
            ),
            80,
        )
        for one in (few, many)
    ]
    assert "pi-2" in texts[0]
    assert "raspberry-pi-4b × 80" in texts[1]
    assert "pi-2" not in texts[1]


def test_figures_are_a_result_and_more() -> None:
    figures = figures_of(simulated.outcome(), EXPERIMENT)
    assert set(Result.__struct_fields__) < set(figures)
    assert figures["seed"] == 7
    assert figures["experiment_seed"] == 5
    assert figures["wire_bytes"] == 5_000_000
    assert figures["recoveries"][0]["seconds"] == 23.5
    assert figures["seconds_to_accuracy"]["0.50"] == 60.0


def test_a_run_that_was_cut_has_the_figures_of_its_rows() -> None:
    outcome = simulated.outcome(finished=False)
    figures = figures_of(outcome, EXPERIMENT)
    assert set(Result.__struct_fields__) < set(figures)
    assert figures["phase"] == "cut"
    assert figures["samples_applied"] == 120_000
    assert figures["samples_per_second"] == 400.0
    assert figures["test_accuracy"] == pytest.approx(figures["best_accuracy"], abs=0.1)
    nothing = Outcome(seed=0, phase="cut", virtual_seconds=0.5)
    assert figures_of(nothing, EXPERIMENT)["samples_per_second"] == 0.0
    drawn(Page("kitchen", nothing, figures_of(nothing, EXPERIMENT), False, 0.0), 80)


def test_accuracies_count_when_they_are_first_reached() -> None:
    reached = dict(seconds_to_accuracy(simulated.outcome().rows))
    assert list(reached) == sorted(reached)
    assert list(reached.values()) == sorted(reached.values())
    assert 0.99 not in reached


def progress(share: float) -> Progress:
    return Progress(
        300 * share, "training", 1, 10, round(1e5 * share), 100_000, 400.0, 2.0 - share, 0.5, 4, 0,
        (Event(300 * share, "fault", "pi-2", "crash"),),
    )  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 120])
def test_progress_says_how_much_faster_than_real_it_is(width: int) -> None:
    sight = Sight("kitchen  seed 7", "ssp · synthetic work", started=100.0)
    for share in (0.25, 0.5):
        sight.observe(progress(share), 100.0 + 3 * share)
    text = drawn(sight, width)
    assert max(len(line) for line in text.splitlines()) <= width
    for said in ("kitchen  seed 7", "2:30 virtual", "100× real", "50 %", "crash", "50.0 %"):
        assert said in text
    line = plain_line(sight)
    assert line.startswith("2:30 | 100× real time | epoch 1/10 | 50 %")


@pytest.mark.parametrize(("times", "said"), [(1234.5, "1,234×"), (3.42, "3.4×"), (0.25, "0.25×")])
def test_speed_ups_are_short(times: float, said: str) -> None:
    assert faster(times) == said


@pytest.mark.parametrize("screen", [LiveScreen, PlainScreen])
def test_screens_take_a_whole_run(screen: type[LiveScreen | PlainScreen]) -> None:
    console = Console(file=io.StringIO(), force_terminal=screen is LiveScreen, width=90)
    shown = screen(console, "kitchen  seed 7", "ssp")
    for step in range(1, 50):
        shown.show(msgspec.structs.replace(progress(step / 50), violations=step // 25))
    shown.close()
