"""Random faults: pure, within their bounds, at their rates, of every kind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from fault_cases import HOSTS
from hypothesis import given, settings
from hypothesis import strategies as st

from psedge.protocol.errors import ConfigError
from psedge.simulation.faults.hosts import Hosts
from psedge.simulation.faults.kinds import KINDS, Crash, Leave, PowerCut
from psedge.simulation.faults.plan import FaultPlan, load_plan, to_toml
from psedge.simulation.faults.random_plan import RandomFaults, default_random, drawn, expected

SMALL = Hosts(tuple(f"pi-{number}" for number in range(1, 7)), ("server-0", "server-1"))

_RATES = st.dictionaries(
    st.sampled_from(["workers", "servers", "all", "pi-1"]),
    st.dictionaries(st.sampled_from(list(KINDS)), st.floats(0, 400)),
    min_size=1,
)


@settings(max_examples=150, deadline=None)
@given(
    rates=_RATES,
    per=st.sampled_from(["host-hour", "run"]),
    start=st.floats(0, 50),
    stop=st.floats(50.1, 300),
    horizon=st.floats(1, 200),
    seed=st.integers(0, 2**64),
)
def test_a_draw_is_pure_and_stays_within_its_bounds(
    rates: dict[str, dict[str, float]],
    per: str,
    start: float,
    stop: float,
    horizon: float,
    seed: int,
) -> None:
    random = RandomFaults(rates=rates, per="run" if per == "run" else "host-hour", start=start,
                          stop=stop)  # fmt: skip
    found = drawn(random, HOSTS, seed, horizon)
    assert found == drawn(random, HOSTS, seed, horizon)
    assert list(found) == sorted(found, key=lambda fault: fault.at or 0.0)
    end = min(horizon, stop)
    for fault in found:
        assert fault.at is not None
        assert start <= fault.at <= end
        assert fault.at + (fault.lasts or 0.0) <= end + 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_what_is_drawn_is_a_plan_that_loads(seed: int, tmp_path: Path) -> None:
    many = RandomFaults(rates={"all": dict.fromkeys(KINDS, 3.0)}, per="run", stop=90.0)
    plan = FaultPlan(drawn(many, HOSTS, seed, 1e9))
    path = tmp_path / "plan.toml"
    path.write_text(to_toml(plan))
    assert load_plan(path, HOSTS) == plan


def test_rates_are_kept() -> None:
    hourly = RandomFaults(rates={"workers": {"freeze": 6.0}}, stop=1e9)
    assert len(drawn(hourly, SMALL, 1, 100 * 3600.0)) == pytest.approx(6 * 6 * 100, rel=0.1)
    per_run = RandomFaults(rates={"workers": {"freeze": 6.0}}, per="run", stop=90.0)
    counts = [len(drawn(per_run, SMALL, seed, 1e9)) for seed in range(300)]
    assert sum(counts) == pytest.approx(6 * 300, rel=0.1)


def test_another_rate_leaves_the_others_as_they_were() -> None:
    one = RandomFaults(rates={"workers": {"freeze": 60.0}}, stop=900.0)
    rates = {"workers": {"crash": 90.0, "freeze": 60.0}, "all": {"slow": 9.0}}
    two = drawn(RandomFaults(rates=rates, stop=900.0), SMALL, 5, 1e9)
    assert drawn(one, SMALL, 5, 1e9) == tuple(fault for fault in two if fault.kind == "freeze")


def test_seeds_differ() -> None:
    random = default_random(SMALL)
    assert len({drawn(random, SMALL, seed, 100.0) for seed in range(50)}) == 50


def test_rates_with_too_many_zeros_are_a_mistake() -> None:
    random = RandomFaults(rates={"workers": {"crash": 2e6}}, stop=3600.0)
    with pytest.raises(ConfigError, match="lower the rates, or set an earlier stop"):
        drawn(random, SMALL, 1, 1e9)


def test_the_default_has_every_kind_and_lets_a_run_end() -> None:
    random = default_random(SMALL)
    assert {kind for rates in random.rates.values() for kind in rates} == set(KINDS)
    assert 5 < expected(random, SMALL, 1e9) < 10
    counts: Counter[tuple[str, bool]] = Counter()
    for seed in range(300):
        found = drawn(random, SMALL, seed, 1e9)
        returning = {fault.where for fault in found if fault.kind == "join"}
        for fault in found:
            server = fault.where.startswith("server")
            counts[fault.kind, server] += 1
            assert (fault.at or 0.0) + (fault.lasts or 0.0) <= 60.0
            if isinstance(fault, Crash | PowerCut | Leave):
                assert fault.restart_after is not None or fault.where in returning
            assert not (isinstance(fault, Leave) and server)
    # Three hundred runs of the test-suite see each kind of fault often enough to learn from it.
    assert all(counts[kind, True] + counts[kind, False] >= 8 for kind in KINDS), counts
    assert counts["crash", True] < counts["crash", False] / 2
    assert 50 <= counts["crash", True] + counts["power-cut", True] <= 150


def test_many_workers_do_not_make_the_default_worse() -> None:
    large = Hosts(tuple(f"pi-{number}" for number in range(10_000)), ("server-0",))
    assert expected(default_random(large), large, 1e9) < 12
    assert len(drawn(default_random(large), large, 1, 1e9)) < 30


def test_the_default_suits_the_smallest_cluster() -> None:
    smallest = Hosts(("pi-1",), ("server-0",))
    for seed in range(100):
        for fault in drawn(default_random(smallest), smallest, seed, 60.0):
            assert fault.where
