"""Fault plans: their TOML and every mistake in it, and the example of each kind in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fault_cases import HOSTS, plans
from hypothesis import HealthCheck, given, settings

from psedge.protocol.errors import ConfigError
from psedge.simulation.faults.hosts import Hosts
from psedge.simulation.faults.kinds import KINDS, Crash, Freeze, Link, Partition
from psedge.simulation.faults.plan import FaultPlan, load_plan, to_toml
from psedge.simulation.faults.random_plan import RandomFaults

PAGE = Path(__file__).parent.parent / "docs" / "fault-plans.md"


def loaded(tmp_path: Path, text: str) -> FaultPlan:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return load_plan(path, HOSTS)


def examples() -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_a_plan_says_what_happens_when_and_to_whom(tmp_path: Path) -> None:
    plan = loaded(
        tmp_path,
        """
        [[fault]]
        kind = "crash"
        on = ["pi-1", "servers"]
        at = 12.5
        restart_after = 4

        [[fault]]
        kind = "link"
        on = "workers"
        after = "checkpoint 3"
        delay = 2
        loss = 0.1
        seconds = 30

        [random]
        stop = 60
        [random.rates.workers]
        freeze = 20
        """,
    )
    assert plan.faults == (
        Crash(on=("pi-1", "servers"), at=12.5, restart_after=4.0),
        Link(on="workers", after="checkpoint 3", delay=2.0, loss=0.1, seconds=30.0),
    )
    assert plan.random == RandomFaults(rates={"workers": {"freeze": 20.0}}, stop=60.0)
    crash, link = plan.faults
    assert (crash.kind, crash.where, crash.when()) == ("crash", "pi-1, servers", "at 12.5 s")
    assert crash.describe() == "at 12.5 s, pi-1, servers: crash, started again 4 s later"
    assert link.describe() == "2 s after checkpoint 3, workers: link: loss 0.1 for 30 s"


def test_without_chance_a_plan_is_the_same_for_every_seed() -> None:
    faults = (Freeze(on="pi-1", at=1.0), Partition(between=("pi-1", "servers"), at=2.0))
    assert FaultPlan(faults).concrete(HOSTS, 1, 60.0) == faults
    by_chance = RandomFaults(rates={"pi-1": {"crash": 5.0}}, per="run", stop=50.0)
    found = FaultPlan(faults, by_chance).concrete(HOSTS, 1, 60.0)
    assert found[:2] == faults
    assert {fault.where for fault in found[2:]} == {"pi-1"}


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plan=plans())
def test_a_plan_that_is_written_reads_back_the_same(plan: FaultPlan, tmp_path: Path) -> None:
    assert loaded(tmp_path, to_toml(plan)) == plan


@pytest.mark.parametrize("text", examples(), ids=lambda text: text.split()[3].strip('"'))
def test_the_examples_in_the_docs_load(text: str, tmp_path: Path) -> None:
    plan = loaded(tmp_path, text)
    assert plan.faults or plan.random
    assert loaded(tmp_path, to_toml(plan)) == plan


def test_the_docs_show_every_kind_and_every_key() -> None:
    shown = "".join(examples())
    for kind, type_ in KINDS.items():
        assert f'kind = "{kind}"' in shown, kind
        for key in type_.__struct_fields__:
            assert re.search(rf"^{key} = ", shown, re.MULTILINE), f"{kind}: {key}"


FAULT = '[[fault]]\nkind = "{}"\n'
MISTAKES = {
    "[fault]\nkind = 'crash'": "[fault]: write [[fault]], with double brackets",
    "[[random]]\nstop = 1": "[random]: write [random], with single brackets",
    "fault = [3]": "fault 1: expected a table, written as [[fault]]",
    "[[faults]]\nkind = 'crash'": 'has no key "faults"; did you mean "fault"?',
    "[[fault]]\non = 'pi-1'\nat = 1": "fault 1 has no kind; known are crash, power-cut, ",
    FAULT.format("crahs"): 'fault 1: there is no kind "crahs"; did you mean "crash"?',
    FAULT.format("kill"): 'there is no kind "kill"; did you mean "crash"?',
    FAULT.format("flood"): 'there is no kind "flood"; known are crash, power-cut, leave,',
    "[[fault]]\nkind = 3": 'fault 1: there is no kind "3"; known are',
    FAULT.format("crash") + 'on = "pi-1"': "fault 1 (crash) has no time; give at = 12.5 in",
    FAULT.format("crash") + "at = 1": 'fault 1 (crash) lacks the key "on"',
    FAULT.format("slow") + 'on = "pi-1"\nat = 1': 'fault 1 (slow) lacks the key "factor"',
    FAULT.format("crash") + 'on = "pi-1"\nat = -1': "(crash): at = -1: expected a number >= 0",
    FAULT.format("crash") + 'on = "pi-1"\nat = inf': "at = inf: expected finite numbers",
    FAULT.format("crash") + 'on = "pi-1"\nat = "noon"': 'at = "noon": expected a number',
    FAULT.format("crash") + 'on = "pi-1"\nat = 07:32:00': "at = 07:32:00: expected a number",
    FAULT.format("crash") + "on = 3\nat = 1": "on = 3: expected a string or a list",
    FAULT.format("crash") + "on = []\nat = 1": "fault 1 (crash): on: the list is empty",
    FAULT.format("crash") + 'on = "pi-7"\nat = 1': (
        'fault 1 (crash): on: there is no host or role "pi-7"; did you mean "pi-3"?'
    ),
    FAULT.format("crash") + 'on = "toaster"\nat = 1': (
        'there is no host or role "toaster"; hosts are server-0, server-1, pi-1, pi-2, pi-3; '
        "roles are workers, servers, supervisor, all, primary-SHARD, backup-SHARD"
    ),
    FAULT.format("crash") + 'on = "worker"\nat = 1': 'did you mean "workers"?',
    FAULT.format("crash") + 'on = "primary"\nat = 1': 'did you mean "primary-0"?',
    FAULT.format("crash") + 'on = "primary-2"\nat = 1': (
        "on: there is no primary-2: the 2 servers hold as many shards, counted from 0"
    ),
    FAULT.format("crash") + 'on = "pi-1"\nat = 1\nrestart_afer = 3': (
        'fault 1 (crash) has no key "restart_afer"; did you mean "restart_after"?'
    ),
    FAULT.format("crash") + 'host = "pi-1"\nat = 1': 'no key "host"; did you mean "on"?',
    FAULT.format("crash") + 'on = "pi-1"\nat = 1\nseconds = 3': 'did you mean "restart_after"?',
    FAULT.format("crash") + 'on = "pi-1"\nat = 1\nrestart_after = 0': (
        "restart_after = 0: expected a number > 0"
    ),
    FAULT.format("crash") + 'on = "pi-1"\nat = 1\nafter = "training"': "has both at and after",
    FAULT.format("crash") + 'on = "pi-1"\nat = 1\ndelay = 3': "delay goes with after",
    FAULT.format("crash") + 'on = "pi-1"\nafter = "checkpiont 3"': (
        'after = "checkpiont 3": nothing of that name happens; did you mean "checkpoint 3"?'
    ),
    FAULT.format("crash") + 'on = "pi-1"\nafter = "lunch"': (
        'nothing of that name happens; write "training", "checkpoint 3",'
    ),
    FAULT.format("crash") + 'on = "pi-1"\nafter = "push"': (
        '"push" needs a whole number from 1 on, such as "push 3"'
    ),
    FAULT.format("crash") + 'on = "pi-1"\nafter = "join"': '"join" needs the name of a host',
    FAULT.format("crash") + 'on = "pi-1"\nafter = "join pi-9"': (
        'after = "join pi-9": there is no host or role "pi-9"'
    ),
    FAULT.format("crash") + 'on = "pi-1"\nafter = "join workers"': "and workers is a role",
    FAULT.format("crash") + 'on = "pi-1"\nafter = "join server-0"': "and server-0 is a server",
    FAULT.format("crash") + 'on = "pi-1"\nafter = "training 3"': 'starts once and takes no "3"',
    FAULT.format("slow") + 'on = "pi-1"\nat = 1\nfactor = 0.5': (
        "fault 1 (slow): factor = 0.5: expected a number >= 1"
    ),
    FAULT.format("link") + 'on = "pi-1"\nat = 1\nloss = 1.5': "loss = 1.5: expected a number <= 1",
    FAULT.format("link") + 'on = "pi-1"\nat = 1\nlatency = 1': 'did you mean "delay_seconds"?',
    FAULT.format("link") + 'on = "pi-1"\nat = 1': "(link) changes nothing; give one of bits_per_",
    FAULT.format("clock-skew") + 'on = "pi-1"\nat = 1': "changes nothing; give by_seconds or drift",
    FAULT.format("partition") + 'between = ["pi-1"]\nat = 1': (
        'between = ["pi-1"]: expected a list of length 2'
    ),
    FAULT.format("partition") + 'between = ["pi-1", "workers"]\nat = 1': (
        "fault 1 (partition): between: pi-1 stands on both sides"
    ),
    FAULT.format("partition") + 'between = ["pi-1", "servr-0"]\nat = 1': (
        'between: there is no host or role "servr-0"; did you mean "server-0"?'
    ),
    FAULT.format("partition") + 'on = "pi-1"\nat = 1': '(partition) has no key "on"',
    "[random]\nrates.all.crash = 2": '[random] lacks the key "stop"',
    "[random]\nstop = 9": '[random] lacks the key "rates"',
    "[random]\nstop = 9\nrates = {}": "[random] draws nothing; add a table of a role or",
    "[random]\nstop = 9\nrates.crash = 2": "[random]: rates.crash says nothing of whom;",
    "[random]\nstop = 9\nrates.workers.crsh = 2": (
        '[random]: rates.workers: there is no kind "crsh"; did you mean "crash"?'
    ),
    "[random]\nstop = 9\nrates.workers.crash = -2": "expected a number >= 0",
    "[random]\nstop = 9\nrates.wrkers.crash = 2": (
        'rates: there is no host or role "wrkers"; did you mean "workers"?'
    ),
    "[random]\nper = 'hour'\nrates.all.crash = 2": (
        'per = "hour": must be one of host-hour, run; did you mean "host-hour"?'
    ),
    "[random]\nstart = 9\nstop = 3\nrates.all.crash = 2": "stop = 3 is not after start = 9",
    "[random]\nseconds = [3, 1]\nstop = 9\nrates.all.crash = 2": "[3, 1]: expected the shortest",
    "[random]\nrate.all.crash = 2": '[random] has no key "rate"; did you mean "rates"?',
    "[random]\nstop = 1e9\nrates.all.crash = 2": "[random]: some 2777778 faults would be drawn,",
    "[[fault]": "not valid TOML",
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.items())
def test_a_mistake_is_one_line_that_helps(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "plan.toml"))
    assert "\n" not in str(caught.value)


def test_a_message_counts_faults_as_people_do(tmp_path: Path) -> None:
    good = FAULT.format("crash") + 'on = "pi-1"\nat = 1\n'
    with pytest.raises(ConfigError, match=r"plan.toml: fault 2 \(crash\) has no time"):
        loaded(tmp_path, good + FAULT.format("crash") + 'on = "pi-1"')


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("")
    with pytest.raises(ConfigError, match=r"plam.toml: no such file; did you mean .*plan.toml\?"):
        load_plan(tmp_path / "plam.toml", HOSTS)
    assert load_plan(tmp_path / "plan.toml", HOSTS) == FaultPlan()


def test_a_role_that_moves_is_whoever_has_it_when_the_fault_strikes() -> None:
    held = {("primary", 0): ("server-1",), ("backup", 0): ("server-0",), ("primary", 1): ()}
    now = Hosts(HOSTS.workers, HOSTS.servers, holders=lambda role, shard: held[role, shard])
    assert HOSTS.named(("primary-0", "server-1")) == ("primary-0", "server-1")
    assert now.named(("primary-0", "server-1", "backup-0")) == ("server-1", "server-0")
    assert now.named("primary-1") == ()
    assert now.moving(("primary-0", "workers")) == {"primary-0": ("server-1",)}


def test_a_supervisor_apart_is_a_host_and_no_server() -> None:
    apart = Hosts(("pi-1",), ("server-0",), apart=True)
    assert apart.named("supervisor") == ("supervisor",)
    assert apart.named("servers") == ("server-0",)
    assert apart.all == ("supervisor", "server-0", "pi-1")
    assert HOSTS.named("supervisor") == ("server-0",)


def test_a_large_cluster_is_not_listed_in_full() -> None:
    hosts = Hosts(tuple(f"pi-{number}" for number in range(10_000)), ("server-0",))
    with pytest.raises(ConfigError, match=r"pi-6, \.\.\. \(10001 in all\)"):
        hosts.named("toaster")
