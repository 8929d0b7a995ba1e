"""`psedge chaos`: what it draws, how it judges, how it finds processes, what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import until
from rich.console import Console

from psedge.chaos import hands, processes
from psedge.chaos.hands import Hands
from psedge.chaos.judge import Judge, Recovery, Stall
from psedge.chaos.report import Struck, verdict
from psedge.chaos.restart import arguments_again
from psedge.chaos.strikes import FAULTS, ROLES, SECONDS, Strike, draw_strikes
from psedge.chaos.targets import census, is_whole, targets_of
from psedge.cli import exit_code
from psedge.protocol.errors import ConfigError
from psedge.protocol.status import ServerStatus, ShardStatus, Status, WorkerStatus
from psedge.protocol.system_clock import SystemClock

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def status(**changes: object) -> Status:
    """Two servers that back up each other, a supervisor apart, two workers."""
    fields: dict[str, object] = {
        "run": "small",
        "phase": "training",
        "samples": 100,
        "samples_applied": 90,
        "samples_total": 1000,
        "pushes_applied": 10,
        "process": 100,
        "machine": "pc",
        "servers": (
            ServerStatus(0, "http://a", "alive", process=101, machine="pc"),
            ServerStatus(1, "http://b", "alive", process=102, machine="pc"),
        ),
        "shards": (ShardStatus(0, 1, 0, (1,), wanted=1), ShardStatus(1, 1, 1, (0,), wanted=1)),
        "workers": (
            WorkerStatus("pi", "alive", process=103, machine="pc"),
            WorkerStatus("nano", "dead", process=104, machine="pc"),
        ),
    }
    return Status(**(fields | changes))  # type: ignore[arg-type]


def test_strikes_come_from_the_seed_and_leave_nobody_out() -> None:
    def drawn(seed: int) -> list[Strike]:
        strikes = draw_strikes(np.random.default_rng(seed), ROLES, FAULTS)
        return list(itertools.islice(strikes, 24))

    assert drawn(3) == drawn(3) != drawn(4)
    pairs = {(role, fault) for role in ROLES for fault in FAULTS}
    for half in (drawn(3)[:12], drawn(3)[12:]):
        assert {(strike.role, strike.fault) for strike in half} == pairs
        for strike in half:
            low, high = SECONDS[strike.fault]
            assert low <= strike.seconds <= high
            assert strike.of("abc") in "abc"


def test_who_plays_which_part() -> None:
    found = targets_of(status())
    assert [target.process for target in found["primary"]] == [101, 102]
    assert [target.process for target in found["backup"]] == [101, 102]
    assert [target.process for target in found["supervisor"]] == [100]
    assert [target.name for target in found["worker"]] == ["worker pi"]
    assert found["primary"][0].name == "server 0, primary of shard 0"


def test_a_primary_without_backups_is_left_alone() -> None:
    alone = status(shards=(ShardStatus(0, 1, 0), ShardStatus(1, 1, 1, (0,))))
    assert [target.process for target in targets_of(alone)["primary"]] == [102]
    nobody = status(shards=(), workers=(), process=0)
    assert targets_of(nobody) == {}


def test_whole_is_as_many_as_before_and_the_one_that_was_struck() -> None:
    best = census(status())
    assert is_whole(status(), best)
    assert is_whole(status(), best, 103)
    assert not is_whole(status(), best, 104)
    assert is_whole(status(), best, gone=104)
    assert not is_whole(status(), best, gone=101)
    assert not is_whole(status(workers=()), best)
    assert not is_whole(status(shards=(ShardStatus(0, 2, 1), ShardStatus(1, 1, 1, (0,)))), best)
    assert not is_whole(status(servers=status().servers[:1]), best)


def test_a_worker_that_is_back_has_to_make_a_step() -> None:
    """As one that sleeps on after SIGCONT, while all others wait for it at the gate."""

    def seen(pushes: int, steps: int, state: str = "alive") -> Status:
        pi = WorkerStatus("pi", state, steps=steps, process=103, machine="pc")  # type: ignore[arg-type]
        return status(pushes_applied=pushes, workers=(pi,))

    stuck = Recovery(census(status()), 103, 0, progress=10)
    assert [stuck.observe(seen(10, 4)) for _ in range(3)] == [False] * 3
    assert stuck.is_there
    assert not stuck.observe(seen(11, 4)), "that was somebody else"
    assert stuck.observe(seen(11, 5))
    done = Recovery(census(status()), 103, 0, progress=10)
    assert done.observe(seen(11, 4, "idle")), "there is nothing left for it"
    missing = Recovery(census(status()), 0, 101, progress=10)
    assert not missing.observe(seen(12, 5))
    assert not missing.is_there


def judged(*seen: Status) -> list[str]:
    judge = Judge()
    for each in seen:
        judge.observe(each)
    judge.conclude()
    return judge.violations


def test_a_cluster_that_keeps_its_promises() -> None:
    reigns = (ShardStatus(0, 2, 1), ShardStatus(1, 1, 1))
    promoted = status(samples=200, shards=reigns)
    later = status(samples=1000, pushes_applied=20, phase="finished", shards=reigns)
    assert judged(status(), promoted, later) == []


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (status(samples=99), "samples went back from 100 to 99"),
        (status(samples_applied=89), "applied samples went back"),
        (status(pushes_applied=9), "applied pushes went back"),
        (status(phase="failed", reason="all are gone"), "the run failed: all are gone"),
        (status(shards=(ShardStatus(0, 1, 1),)), "two primaries in term 1: servers 0 and 1"),
        (status(phase="finished", samples=999), "finished after 999 samples"),
        (status(phase="finished", samples=1001), "finished after 1,001 samples"),
    ],
)
def test_every_broken_promise_is_seen(seen: Status, said: str) -> None:
    found = judged(status(), seen, seen)
    assert len(found) == 1
    assert said in found[0]


def test_a_struck_worker_may_have_its_last_push_visited_again() -> None:
    def said(samples: int, struck: int) -> list[str]:
        judge = Judge()
        judge.observe(status(phase="finished", samples=samples, pushes_applied=100))
        judge.conclude(struck)
        return judge.violations

    assert said(1010, 1) == []
    assert said(1010, 0) != []
    assert said(1030, 2) != []
    assert said(990, 1) != []


def test_a_supervisor_that_was_just_started_has_not_heard_of_anything_yet() -> None:
    back = status(samples=0, pushes_applied=0, servers=(ServerStatus(0, "http://a", "alive"),))
    assert judged(status(), back, status()) == []


def test_how_long_nothing_was_pushed() -> None:
    stall = Stall(5, 10.0)
    for progress, now in ((5, 11.0), (6, 12.5), (7, 12.6), (7, 13.0)):
        stall.observe(progress, now)
    assert stall.seconds == 2.5
    # Nobody saw what happened meanwhile, and it went on.
    for seen, now in ((None, 14.0), (None, 20.0), (9, 21.0)):
        stall.observe(seen, now)
    assert stall.seconds == 2.5
    for seen, now in ((None, 22.0), (9, 25.0)):
        stall.observe(seen, now)
    assert stall.seconds == 4.0


def test_terms_never_fall() -> None:
    high = status(shards=(ShardStatus(0, 5, 0),))
    assert judged(high, status(shards=(ShardStatus(0, 4, 1),))) == [
        "shard 0 is in term 4, and was in 5"
    ]
    # Nobody reigns for a moment: that is no term.
    assert judged(high, status(shards=(ShardStatus(0, 0, -1),)), high) == []


def test_a_loss_that_is_reported_is_no_broken_promise() -> None:
    lossy = status(samples=60, notes=("shard 0: 4 acknowledged pushes are lost",))
    assert judged(status(), lossy) == []
    judge = Judge()
    judge.observe(lossy)
    assert judge.losses == ["shard 0: 4 acknowledged pushes are lost"]


def test_a_supervisor_comes_back_to_its_run_and_its_port() -> None:
    first = ["server", "a.toml", "--port", "0", "--set", "seed=1", "--out=run", "--with-parent"]
    again = arguments_again(first, folder="/tmp/run", port=7701)
    assert again[:4] == ["server", "a.toml", "--set", "seed=1"]
    assert again[4:] == ["--port", "7701", "--out", "/tmp/run", "--resume"]
    again = arguments_again([*again, "--from-checkpoint"], folder="/tmp/run", port=7701)
    assert again.count("--resume") == 1
    assert "--from-checkpoint" not in again, "what it has trained since is not to be given up"


@pytest.mark.parametrize(
    "arguments",
    [["server", "--join", "http://a", "--port", "0"], ["worker", "--join=http://a", "--name", "b"]],
)
def test_the_others_come_back_as_they_were(arguments: list[str]) -> None:
    assert arguments_again([*arguments, "--with-parent"], folder="r", port=1) == arguments


def test_the_verdict_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=100)
    strikes = [Struck("kill", "worker pi", 1.25, 3.5), Struck("pause", "server 1", 9, None)]
    for part in verdict(strikes, ["samples went back"], ["4 are lost"], status()):
        console.print(part)
    text = capsys.readouterr().out
    for said in ("worker pi", "1.2 s", "3.5 s", "never", "samples went back", "4 are lost"):
        assert said in text
    for part in verdict(strikes[:1], [], [], status(phase="finished", samples=1000)):
        console.print(part)
    assert "survived 1 strike: the run has finished, 1,000 of 1,000" in capsys.readouterr().out
    for part in verdict([Struck("kill", "server 1", 1, None, "stopped")], [], [], status()):
        console.print(part)
    assert "1.0 s           stopped" in capsys.readouterr().out
    for part in verdict([], [], [], None):
        console.print(part)
    assert capsys.readouterr().out.split() == ["nobody", "was", "struck"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`psedge server` that waits for a supervisor which never comes."""
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "psedge", "server", "--join", "http://127.0.0.1:9"]
        started = subprocess.Popen(
            [*command, "--port", "0"], stdout=log, stderr=log, start_new_session=True, cwd=tmp_path
        )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


@linux
def test_a_process_is_found_stopped_killed_and_started_again(
    server: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    until(lambda: b"ready at" in log.read_bytes(), "the server is there")
    running = processes.look_up(server.pid)
    assert running is not None
    assert running.arguments == ("server", "--join", "http://127.0.0.1:9", "--port", "0")
    assert running.program == (sys.executable, "-m", "psedge")
    assert running.folder == tmp_path
    assert running.output == log
    assert not running.has_parent
    processes.send(running, signal.SIGSTOP)
    stat = Path(f"/proc/{server.pid}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it stands still")
    processes.send(running, signal.SIGCONT)
    processes.send(running, signal.SIGKILL)
    until(lambda: not processes.is_alive(running), "it has ended")
    processes.send(running, signal.SIGTERM)
    child = processes.start_again(running, list(running.arguments), tmp_path / "other")
    try:
        until(lambda: log.read_bytes().count(b"ready at") == 2, "it is there again")
        again = processes.look_up(child.pid)
        assert again is not None
        assert again.environment == running.environment
        assert not processes.is_alive(running)
    finally:
        child.kill()
        child.wait()
    assert processes.look_up(child.pid) is None


@linux
@pytest.mark.parametrize("over", [False, True])
def test_nobody_is_started_for_a_run_that_has_ended(
    server: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, over: bool
) -> None:
    """And who was started just before, and has missed the end, waits for no supervisor."""
    monkeypatch.setattr(hands, "_FAREWELL_SECONDS", 0.1)
    log = tmp_path / "log"
    until(lambda: b"ready at" in log.read_bytes(), "the server is there")
    running = processes.look_up(server.pid)
    assert running is not None
    told: list[str] = []

    async def story() -> None:
        stopping = asyncio.Event()
        stopping.set()
        ours = Hands(SystemClock(), tmp_path, 9, stopping, lambda: over)
        there = await ours.do("kill", running, 60.0, lambda word, text: told.append(word))
        assert not processes.is_alive(running)
        if over:
            assert (there, told) == (0, [])
            return
        try:
            # For a moment after its start the kernel does not say with what arguments that was.
            await asyncio.to_thread(until, lambda: processes.look_up(there), "it is to be seen")
            again = processes.look_up(there)
            assert again is not None
            await ours.farewell()
            await asyncio.to_thread(until, lambda: not processes.is_alive(again), "it has ended")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(there, signal.SIGKILL)

    asyncio.run(story())


@linux
def test_what_is_no_psedge_process_is_not_touched() -> None:
    assert processes.look_up(os.getpid()) is None


@linux
def test_whose_processes_and_which_machine() -> None:
    assert processes.is_here("127.0.0.1")
    assert processes.is_here("localhost")
    assert not processes.is_here("192.0.2.7")


@linux
def test_another_users_process_is_refused(
    server: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    until(lambda: b"ready at" in (tmp_path / "log").read_bytes(), "the server is there")
    monkeypatch.setattr(processes.os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(ConfigError, match=f"process {server.pid} is another user's"):
        processes.look_up(server.pid)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--join", "http://192.0.2.7:7700"], "another machine"),
        (["--join", "http://127.0.0.1:1"], "does not answer"),
        (["--join", "http://127.0.0.1:1", "--roles", "boss"], "'boss' is none of primary"),
        (["--join", "http://127.0.0.1:1", "--faults", "kill,bite"], "'bite' is none of kill"),
    ],
)
@linux
def test_mistakes_are_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["chaos", *arguments]) == 2
    assert said in capsys.readouterr().err
