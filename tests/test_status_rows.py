"""What the status says of copies, suspects and decisions, and how that looks."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from guardian_rig import GuardedRig
from rich.console import Console
from supervisor_rig import run

from psedge.protocol.status import (
    CopyStatus,
    Event,
    ServerStatus,
    ShardStatus,
    Status,
    WorkerStatus,
)
from psedge.terminal.view import History, plain_line, render


def test_servers_say_what_they_hold_and_shards_who_holds_them(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path, servers=3)
        await rig.training()
        for server in (0, 1, 2):
            await rig.beat(server)
        status = await rig.status()
        assert [(s.state, s.shards, s.copies) for s in status.servers] == [
            ("alive", (0,), (CopyStatus(0, "primary", 1),)),
            ("alive", (1,), (CopyStatus(0, "backup", 1), CopyStatus(1, "primary", 1))),
            ("alive", (), (CopyStatus(1, "backup", 1),)),
        ]
        assert status.shards == (
            ShardStatus(0, 1, 0, backups=(1,), wanted=1),
            ShardStatus(1, 1, 1, backups=(2,), wanted=1),
        )
        decisions = [event.decision for event in status.journal]
        assert (decisions[:3], decisions[-1]) == (["join"] * 3, "start")
        rig.kill(1)
        rig.supervisor._guardian.suspect((1,))
        await rig.turns()
        status = await rig.status()
        assert status.servers[1].state == "dead"
        assert (status.shards[1].term, status.shards[1].primary) == (2, 2)
        promoted = next(event for event in status.journal if "promote" in event.decision)
        assert promoted.subject == "shard 1"
        assert "nobody listens at http://10.0.0.1:7700" in promoted.reason

    run(story())


def test_who_is_silent_for_unusually_long_is_a_suspect(tmp_path: Path) -> None:
    async def story() -> None:
        rig = GuardedRig(tmp_path)
        await rig.training()
        await rig.pass_time(9, 0, 1)
        rig.clock.seconds += 4.9
        status = await rig.status()
        assert [server.state for server in status.servers] == ["suspect", "suspect"]
        assert all(worker.suspect for worker in status.workers)
        assert {worker.state for worker in status.workers} == {"alive"}

    run(story())


STATUS = Status(
    run="digits",
    phase="training",
    servers=(
        ServerStatus(
            0,
            "http://127.0.0.1:7700",
            "alive",
            (0, 1),
            812,
            (CopyStatus(0, "primary", 1), CopyStatus(1, "primary", 2)),
        ),
        ServerStatus(1, "http://127.0.0.1:7701", "dead", (), 800),
        ServerStatus(
            2,
            "http://127.0.0.1:7702",
            "suspect",
            (),
            0,
            (CopyStatus(0, "backup", 1), CopyStatus(1, "learner", 2, 3201)),
        ),
    ),
    shards=(
        ShardStatus(0, 1, 0, (2,), wanted=1),
        ShardStatus(1, 2, 0, learners=(2,), wanted=1),
    ),
    workers=(WorkerStatus("pi", "alive", suspect=True),),
    notes=("shard 1: promote (server 1 is dead)", "worker pi left: no room"),
    journal=(
        Event(4, 0.0, "server", "server 2", "join", "from http://127.0.0.1:7702"),
        Event(5, 1.0, "shard", "shard 1", "promote", "server 1 is dead"),
    ),
)


def drawn(status: Status, width: int, events: int = 0) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(render(status, events=events))
    return capture.get()


@pytest.mark.parametrize("width", [80, 120])
def test_the_picture_says_who_holds_what(width: int) -> None:
    lines = drawn(STATUS, width).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "primary of 0, 1 · 812 updates" in text
    assert "server 2 suspect" in text
    assert "backup of 0 · learner of 1 (3,201 behind)" in text
    assert "server 1 dead" not in text, "somebody has taken over all that it had"
    assert " shard 1 has no backup" in text
    assert "● pi" in text
    assert "suspect" in next(line for line in lines if "● pi" in line)


def test_decisions_come_with_their_reasons_and_not_twice() -> None:
    text = drawn(STATUS, 100, events=8)
    assert "shard 1: promote, server 1 is dead" in text
    assert "server 2: join, from http://127.0.0.1:7702" in text
    assert text.count("server 1 is dead") == 1
    assert "! worker pi left: no room" in text
    assert "server 2: join" not in drawn(STATUS, 100, events=1)


def test_one_copy_is_what_was_asked_for() -> None:
    alone = msgspec.structs.replace(
        STATUS, shards=tuple(msgspec.structs.replace(shard, wanted=0) for shard in STATUS.shards)
    )
    text = drawn(alone, 100)
    assert "no backup" not in text
    assert "shard 0 · shard 1 · 812 updates" in text


def test_a_dead_server_that_is_waited_for_is_listed() -> None:
    dead = msgspec.structs.replace(
        STATUS.servers[1], state="dead", shards=(), copies=(CopyStatus(1, "backup", 2),)
    )
    servers = (STATUS.servers[0], dead, STATUS.servers[2])
    assert "server 1 dead backup of 1" in drawn(
        msgspec.structs.replace(STATUS, servers=servers), 80
    )


def test_a_start_that_waits_says_for_what_and_where_it_goes_on() -> None:
    fresh = Status("digits", "waiting")
    assert plain_line(fresh, History()) == "waiting: servers and workers are starting"
    waiting = Status("digits", "waiting", waiting_for="1 more server", samples=12_345)
    said = "waiting for 1 more server; training goes on after 12,345 samples"
    assert plain_line(waiting, History()) == said
    assert f" {said}" in drawn(waiting, 80)


def test_a_supervisor_that_waits_for_its_servers_says_so() -> None:
    waiting = msgspec.structs.replace(STATUS, waiting_for="the servers of the run: 1 of 2 there")
    assert plain_line(waiting, History()) == "waiting for the servers of the run: 1 of 2 there"
    assert " waiting for the servers of the run: 1 of 2 there" in drawn(waiting, 80)
