"""What the injector does to a world, and when; the world only writes it down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from fault_cases import HOSTS, NotedWorld, faults
from hypothesis import given, settings
from hypothesis import strategies as st

from psedge.protocol.errors import ConfigError
from psedge.simulation.faults.effects import merged
from psedge.simulation.faults.inject import Injector
from psedge.simulation.faults.kinds import (
    LINK_FIELDS,
    ClockSkew,
    Crash,
    DiskFull,
    DiskRot,
    DiskSlow,
    Fault,
    Freeze,
    HalfOpen,
    Join,
    Leave,
    Link,
    Partition,
    PowerCut,
    Reset,
    Slow,
)
from psedge.simulation.faults.random_plan import default_random, drawn
from psedge.simulation.loop import run_virtual
from psedge.simulation.network.links import LinkProfile
from psedge.simulation.network.network import Network
from psedge.simulation.trace import Trace

Happenings = dict[float, str]
Look = Callable[[NotedWorld], None]


def struck(
    *plan: Fault,
    happenings: Happenings | None = None,
    looks: dict[float, Look] | None = None,
    until: float = 100.0,
    heal_at: float | None = None,
) -> tuple[NotedWorld, Injector]:
    """The world after a plan was let loose on it.

    happenings: what the world says happens, by virtual seconds. looks: called with the world.
    """

    async def main() -> tuple[NotedWorld, Injector]:
        loop = asyncio.get_running_loop()
        world = NotedWorld(lambda: round(loop.time(), 6))
        injector = Injector(plan, world, asyncio.sleep, world)
        for at, text in (happenings or {}).items():
            loop.call_at(at, injector.event, text)
        for at, look in (looks or {}).items():
            loop.call_at(at, look, world)
        if heal_at is not None:
            loop.call_at(heal_at, injector.heal)
        running = asyncio.ensure_future(injector.run())
        await asyncio.sleep(until)
        running.cancel()
        return world, injector

    return run_virtual(main())


def test_outages_begin_and_end_in_time() -> None:
    world, injector = struck(
        Crash(on="pi-1", at=2.0, restart_after=3.0),
        PowerCut(on=("pi-2", "server-1"), at=2.0),
        Leave(on="pi-3", at=0.0),
        Join(on="pi-3", at=9.5),
    )
    assert world.notes == [
        (0.0, "trace", "leaves"),
        (0.0, "leave", "pi-3"),
        (2.0, "trace", "crash, started again 3 s later"),
        (2.0, "crash", "pi-1"),
        (2.0, "trace", "power cut"),
        (2.0, "power-cut", "pi-2"),
        (2.0, "power-cut", "server-1"),
        (5.0, "trace", "started again"),
        (5.0, "start", "pi-1"),
        (9.5, "trace", "joins"),
        (9.5, "start", "pi-3"),
    ]
    assert injector.struck[0] == "at 0 s, pi-3: leaves"
    assert injector.outstanding() == []


def test_a_host_starts_when_its_last_outage_is_over() -> None:
    world, _ = struck(
        PowerCut(on="pi-1", at=1.0, restart_after=10.0), Crash(on="pi-1", at=2.0, restart_after=1.0)
    )
    assert world.untraced()[-1] == (11.0, "start", "pi-1")
    assert len(world.untraced()) == 3


def test_a_fault_waits_for_its_moment() -> None:
    world, injector = struck(
        Crash(on="pi-1", after="training"),
        Crash(on="pi-2", after="push 500", delay=0.25),
        Crash(on="pi-3", after="snapshot 3"),
        Crash(on="server-0", after="join pi-3"),
        Crash(on="server-1", after="epoch 2"),
        happenings={
            1.0: "push 499", 2.0: "training", 3.0: "push 507", 4.0: "checkpoint 2",
            4.5: "checkpoint 3", 5.0: "snapshot 3", 6.0: "join pi-2", 7.0: "join pi-3",
            8.0: "epoch 1", 9.0: "push 508",
        },
    )  # fmt: skip
    assert world.untraced() == [
        (2.0, "crash", "pi-1"),
        (3.25, "crash", "pi-2"),
        (5.0, "crash", "pi-3"),
        (7.0, "crash", "server-0"),
    ]
    assert injector.outstanding() == ["after epoch 2, server-1: crash"]


def test_a_moment_may_come_before_anyone_waits() -> None:
    async def main() -> list[tuple[float, str, str]]:
        world = NotedWorld(asyncio.get_running_loop().time)
        injector = Injector(
            [Crash(on="pi-1", after="training"), Reset(on="pi-1", after="snapshot 2")],
            world,
            asyncio.sleep,
            world,
        )
        injector.event("training")
        injector.event("snapshot 2")
        await injector.run()
        return world.untraced()

    assert run_virtual(main()) == [(0.0, "crash", "pi-1"), (0.0, "reset", "pi-1")]


def test_a_moment_that_is_none_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing of that name happens"):
        struck(Crash(on="pi-1", after="lunch"))


def test_freezes_overlap_and_end_with_a_crash() -> None:
    world, _ = struck(
        Freeze(on="pi-1", at=1.0, seconds=10.0),
        Freeze(on="pi-1", at=2.0, seconds=2.0),
        Freeze(on="pi-2", at=1.0, seconds=10.0),
        Crash(on="pi-2", at=3.0, restart_after=1.0),
    )
    assert [note for note in world.untraced() if note[2] == "pi-1"] == [
        (1.0, "freeze", "pi-1"),
        (2.0, "freeze", "pi-1"),
        (4.0, "freeze", "pi-1"),
        (11.0, "thaw", "pi-1"),
    ]
    assert [note for note in world.untraced() if note[2] == "pi-2"] == [
        (1.0, "freeze", "pi-2"),
        (3.0, "crash", "pi-2"),
        (4.0, "start", "pi-2"),
    ]


def test_slowness_multiplies() -> None:
    world, _ = struck(
        Slow(on="workers", factor=2.0, at=1.0), Slow(on="pi-1", factor=3.0, at=2.0, seconds=1.0)
    )
    assert [note[:2] for note in world.untraced() if note[2] == "pi-1"] == [
        (1.0, "slow 2"),
        (2.0, "slow 6"),
        (3.0, "slow 2"),
    ]


def test_partitions_are_cut_and_healed() -> None:
    world, _ = struck(
        Partition(between=("servers", "pi-1"), at=1.0, seconds=4.0),
        Partition(between=("pi-2", ("pi-3", "server-0")), one_way=True, at=2.0, seconds=1.0),
        HalfOpen(on="pi-2", peer=("server-0", "pi-2"), at=6.0),
        HalfOpen(on="pi-3", at=7.0),
        Reset(on="workers", at=8.0),
        Reset(on="server-0", peer="workers", at=9.0),
    )
    assert world.untraced() == [
        (1.0, "cut", "server-0,server-1 <> pi-1"),
        (2.0, "cut", "pi-2 > pi-3,server-0"),
        (3.0, "heal", "2"),
        (5.0, "heal", "1"),
        (6.0, "forget", "pi-2 server-0"),
        (7.0, "forget", "pi-3"),
        (8.0, "reset", "pi-1"),
        (8.0, "reset", "pi-2"),
        (8.0, "reset", "pi-3"),
        (9.0, "reset", "server-0 pi-1"),
        (9.0, "reset", "server-0 pi-2"),
        (9.0, "reset", "server-0 pi-3"),
    ]


def test_links_get_worse_together_and_recover_one_by_one() -> None:
    found: list[dict[str, float]] = []
    struck(
        Link(on="workers", loss=0.1, bits_per_second_factor=0.5, at=1.0, seconds=8.0),
        Link(on="pi-1", loss=0.05, bits_per_second_factor=0.5, jitter_seconds=1.0, at=2.0,
             seconds=2.0),
        looks={at: lambda world: found.append(world.network.links.get("pi-1", {}))
               for at in (1.5, 3.0, 5.0, 10.0)},
    )  # fmt: skip
    assert found == [
        {"bits_per_second_factor": 0.5, "loss": 0.1},
        {"bits_per_second_factor": 0.25, "loss": 0.1, "jitter_seconds": 1.0},
        {"bits_per_second_factor": 0.5, "loss": 0.1},
        {},
    ]
    assert merged([]) == {}


def test_disks_and_clocks_go_wrong_and_recover() -> None:
    found = []

    def look(world: NotedWorld) -> None:
        disk, clock = world.disks["server-0"], world.clocks["server-0"]
        found.append((disk.full, disk.slow_factor, clock.skew_seconds, clock.drift))

    world, _ = struck(
        DiskFull(on="supervisor", at=1.0, seconds=2.0),
        DiskSlow(on="servers", factor=10.0, at=1.0, seconds=2.0),
        DiskRot(on="server-1", path="model", at=1.0),
        ClockSkew(on="server-0", by_seconds=-60.0, at=1.0, seconds=2.0),
        ClockSkew(on="server-0", drift=0.01, by_seconds=10.0, at=1.0),
        looks={0.5: look, 2.0: look, 4.0: look},
    )
    assert found == [
        (False, 1.0, 0.0, 0.0),
        (True, 10.0, -50.0, 0.01),
        (False, 1.0, 10.0, 0.01),
    ]
    assert world.disks["server-1"].rotten == ["model"]


def test_healing_ends_what_stands_and_lets_nothing_more_happen() -> None:
    world, injector = struck(
        Partition(between=("servers", "pi-1"), at=1.0),
        Crash(on="pi-2", at=2.0, restart_after=50.0),
        Crash(on="pi-3", at=2.0),
        Slow(on="pi-1", factor=2.0, at=30.0),
        heal_at=20.0,
    )
    assert [note for note in world.untraced() if note[0] >= 20.0] == [
        (20.0, "heal", "1"),
        (20.0, "start", "pi-2"),
    ]
    assert injector.outstanding() == ["at 30 s, pi-1: 2 times slower for good"]


def test_a_run_of_all_faults_returns_when_the_last_is_over() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        world = NotedWorld(loop.time)
        plan = [Freeze(on="pi-1", at=3.0, seconds=4.0), Crash(on="pi-2", at=5.0)]
        await Injector(plan, world, asyncio.sleep, world).run()
        return loop.time()

    assert run_virtual(main()) == 7.0


@settings(max_examples=60, deadline=None)
@given(plan=st.lists(faults(), max_size=6))
def test_every_fault_can_strike_and_be_healed(plan: list[Fault]) -> None:
    texts = ("training", "join pi-2", "push 500", "checkpoint 3", "snapshot 1")
    moments = {float(at): text for at, text in enumerate(texts)}
    world, injector = struck(*plan, happenings=moments, until=3e6, heal_at=2e6)
    assert injector.outstanding() == []
    assert len(injector.struck) == len(plan)
    assert world.network.links == {}
    assert all(not disk.full and disk.slow_factor == 1.0 for disk in world.disks.values())
    assert all(abs(clock.skew_seconds) < 1e-3 for clock in world.clocks.values())
    assert sum(note[1] == "cut" for note in world.notes) == sum(
        note[1] == "heal" for note in world.notes
    )


def test_the_network_knows_every_field_of_a_link() -> None:
    async def main() -> LinkProfile:
        network = Network(Trace(asyncio.get_running_loop().time), 1)
        network.add_host("pi-1", LinkProfile("gbe", 1e9))
        worst = Link(on="pi-1", **dict.fromkeys(LINK_FIELDS, 0.25))
        network.change_link("pi-1", **worst.changes())
        return network.hosts["pi-1"].port.profile

    changed = run_virtual(main())
    assert changed.bits_per_second == 0.25e9
    for name in LINK_FIELDS[1:]:
        assert getattr(changed, name) == 0.25, name


@pytest.mark.parametrize("seed", range(5))
def test_the_same_seed_strikes_the_same(seed: int) -> None:
    plan = drawn(default_random(HOSTS), HOSTS, seed, 100.0)
    first, second = (struck(*plan)[0].notes for _ in range(2))
    assert first == second
    assert all(at <= 60.0 for at, _, _ in first)
