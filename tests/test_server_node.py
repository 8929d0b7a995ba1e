"""A further server and its supervisor: coming in, being turned away, a supervisor that restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from shard_cluster import assignment
from tiny_cluster import HOME, Network, TestClock, run, until

from psedge.protocol import messages
from psedge.protocol.calls import answer, read_message
from psedge.protocol.disk import Disk
from psedge.protocol.errors import (
    AddressError,
    ConfigError,
    PsedgeError,
    RefusedError,
    UnreachableError,
)
from psedge.protocol.ports import Incoming, Reply
from psedge.protocol.replicas import Peer, Reign
from psedge.protocol.shards import ServerReport, ShardOrder, SyncSettings
from psedge.server.node import ServerNode
from psedge.server.service import ShardService
from psedge.server.store import ServerStore

WELCOME = messages.RegisterReply(1, 10.0, 1.0)
HTML = msgspec.defstruct("Html", [("page", str)])("hi")
Script = msgspec.Struct | Exception


class Desk:
    """A supervisor that answers as it is told to; the last answer stays."""

    def __init__(self, store: ServerStore | None = None) -> None:
        self.clock, self.network = TestClock(), Network()
        self.notes: list[str] = []
        self.reports: list[ServerReport] = []
        self.entries: list[messages.Register] = []
        self.service = ShardService(self.clock, transport=self.network, store=store)
        self.node = ServerNode(
            self.service,
            HOME,
            host="127.0.0.1",
            port=7701,
            incarnation=42,
            transport=self.network,
            clock=self.clock,
            notify=self.notes.append,
            process=99,
            machine="pc",
        )

    def answers(self, path: str, *replies: Script) -> None:
        left = list(replies)

        async def handler(incoming: Incoming) -> Reply:
            if path == messages.SERVER_HEARTBEAT:
                self.reports.append(await read_message(incoming, ServerReport))
            if path == messages.REGISTER:
                self.entries.append(await read_message(incoming, messages.Register))
            reply = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(reply, Exception):
                raise reply
            return answer(reply)

        self.network.routes.setdefault(HOME.url, {})[path] = handler

    async def holds(self, *shards: int) -> None:
        """The server has copies, as a backup in term 1."""
        for shard in shards:
            placed = msgspec.structs.replace(assignment(SyncSettings("asp")), shard=shard)
            arrays = {
                "parameters": np.zeros(2, np.float32),
                "buffers": np.zeros(1, np.float32),
                "counters": np.zeros(1, np.uint8),
            }
            await self.service.take(ShardOrder(placed, reign=reign(shard)), arrays)


def beat(command: str, **fields: Any) -> messages.ServerHeartbeatReply:
    return messages.ServerHeartbeatReply(command, **fields)  # type: ignore[arg-type]


def hello(identity: str) -> messages.HelloReply:
    return messages.HelloReply("", 0, supervisor=True, run="run", identity=identity)


def reign(shard: int, revision: int = 0) -> Reign:
    return Reign(shard, 1, revision, Peer(7, "http://primary:7700"), (Peer(1, "http://here:7701"),))


def folder(path: Path) -> ServerStore:
    return ServerStore(Disk(path), TestClock(), print, lambda bits: 5)


def test_it_waits_for_its_supervisor_and_says_so_now_and_then() -> None:
    desk = Desk()
    desk.answers(messages.REGISTER, WELCOME)
    desk.answers(messages.SERVER_HEARTBEAT, beat("continue"), beat("stop"))
    desk.network.lose_request[messages.REGISTER] = 25
    run(desk.node.run(patient=True))
    assert desk.notes == ["waiting for a supervisor: http://supervisor:7700 is not there"] * 3
    assert {(report.server, report.incarnation) for report in desk.reports} == {(1, 42)}


@pytest.mark.parametrize(
    ("refusal", "kind", "words"),
    [
        (RefusedError("forbidden", "wrong token"), AddressError, "turns this server away: wrong"),
        (RefusedError("version-differs", "wire 1, 2"), AddressError, "away: wire 1, 2"),
        (RefusedError("not-found", "nothing"), AddressError, "first `psedge server` printed"),
        (HTML, AddressError, "not as psedge does"),
        (RefusedError("internal", "a bug"), RefusedError, "a bug"),
    ],
)
def test_being_turned_away_is_one_clear_line(
    refusal: Script, kind: type[PsedgeError], words: str
) -> None:
    desk = Desk()
    desk.answers(messages.REGISTER, refusal)
    with pytest.raises(kind, match=words):
        run(desk.node.run(patient=True))


def test_it_outlives_a_supervisor_that_is_started_anew() -> None:
    desk = Desk()
    starting = RefusedError("not-ready", "this server is still starting")
    desk.answers(messages.REGISTER, WELCOME, starting, msgspec.structs.replace(WELCOME, server=2))
    desk.answers(
        messages.SERVER_HEARTBEAT,
        beat("continue"),
        *[starting] * 100,
        beat("register"),
        beat("stop"),
    )
    run(desk.node.run(patient=True))
    assert desk.notes[0] == "the supervisor was started anew; registering again"
    assert desk.reports[-1].server == 2


def test_a_supervisor_that_stays_lost_ends_it() -> None:
    desk = Desk()
    desk.answers(messages.REGISTER, WELCOME)
    desk.answers(messages.SERVER_HEARTBEAT, beat("continue"))

    async def work() -> None:
        running = asyncio.ensure_future(desk.node.run(patient=True))
        await until(lambda: len(desk.reports) > 2)
        desk.network.lose_request[messages.SERVER_HEARTBEAT] = 10**6
        with pytest.raises(UnreachableError, match="silent for 60 s"):
            await running

    run(work())


def test_another_program_at_the_supervisors_address_ends_it() -> None:
    desk = Desk()
    desk.answers(messages.REGISTER, WELCOME)
    desk.answers(messages.SERVER_HEARTBEAT, beat("continue"), HTML)
    with pytest.raises(AddressError, match="not as psedge does"):
        run(desk.node.run(patient=True))


def test_it_says_who_it_is_and_what_it_holds() -> None:
    desk = Desk()
    welcome = msgspec.structs.replace(WELCOME, run="the run")
    desk.answers(messages.REGISTER, welcome)
    desk.answers(messages.HELLO, hello("the run"))
    desk.answers(messages.SERVER_HEARTBEAT, beat("register"), beat("stop"))
    desk.service.server = 1

    async def work() -> None:
        await desk.holds(3)
        await desk.node.run(patient=True)

    run(work())
    again = desk.entries[1]
    assert (again.process, again.machine, again.run) == (99, "pc", "the run")
    assert [(state.shard, state.role, state.term) for state in again.replicas] == [(3, "backup", 1)]
    assert [state.shard for state in desk.reports[1].replicas] == [3]


def test_answers_to_heartbeats_renew_the_lease_and_bring_what_was_missed() -> None:
    desk = Desk()
    desk.answers(messages.REGISTER, msgspec.structs.replace(WELCOME, lease_seconds=3.0))
    desk.answers(messages.HELLO, hello("the run"))
    desk.service.server = 1
    later = beat("continue", lease_seconds=5.0, reigns=(reign(3, revision=4), reign(8)), drop=(4,))
    desk.answers(messages.SERVER_HEARTBEAT, beat("continue"), later, beat("stop"))

    async def work() -> None:
        await desk.holds(3, 4)
        await desk.node.run(patient=True)

    run(work())
    assert list(desk.service.hosted) == [3]
    replica = desk.service.hosted[3].replica
    assert replica.reign is not None
    assert (replica.reign.revision, replica.role) == (4, "backup")
    assert replica.lease_until == 6.0, "from when the heartbeat was sent"


def test_a_server_with_copies_waits_for_its_supervisor_as_long_as_it_takes() -> None:
    desk = Desk()
    desk.answers(messages.REGISTER, WELCOME)
    desk.answers(messages.SERVER_HEARTBEAT, beat("continue"))

    async def work() -> None:
        running = asyncio.ensure_future(desk.node.run(patient=True))
        await until(lambda: bool(desk.reports))
        await desk.holds(3)
        desk.network.lose_request[messages.SERVER_HEARTBEAT] = 200
        await until(lambda: not desk.network.lose_request[messages.SERVER_HEARTBEAT])
        desk.answers(messages.SERVER_HEARTBEAT, HTML, beat("stop"))
        await running

    run(work())
    assert len(desk.notes) == 3
    assert "no supervisor at http://supervisor:7700 for 61 s" in desk.notes[0]


def test_an_order_waits_for_the_number_that_it_speaks_of() -> None:
    desk = Desk()
    desk.service.entering()

    async def work() -> None:
        order = asyncio.ensure_future(desk.holds(3))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not desk.service.hosted
        desk.service.server = 1
        await order
        assert desk.service.hosted[3].replica.role == "backup"

    run(work())


def test_copies_of_another_run_are_given_up() -> None:
    desk = Desk()
    desk.answers(messages.REGISTER, msgspec.structs.replace(WELCOME, run="one"))
    desk.answers(messages.HELLO, hello("one"), hello("two"))
    desk.answers(messages.SERVER_HEARTBEAT, beat("continue"), beat("register"), beat("stop"))
    desk.service.server = 1

    async def work() -> None:
        await desk.holds(3)
        await desk.node.run(patient=True)

    run(work())
    assert [len(entry.replicas) for entry in desk.entries] == [1, 0]
    assert any("another run" in note for note in desk.notes)


def test_a_spare_server_comes_into_the_next_run_of_its_supervisor() -> None:
    """It has neither copies nor a folder: nothing of it is of the run before."""
    desk = Desk()
    desk.answers(messages.HELLO, hello("two"))
    desk.answers(
        messages.REGISTER,
        msgspec.structs.replace(WELCOME, run="one"),
        msgspec.structs.replace(WELCOME, run="two"),
    )
    desk.answers(messages.SERVER_HEARTBEAT, beat("continue"), beat("register"), beat("stop"))
    run(desk.node.run(patient=True))
    assert [entry.run for entry in desk.entries] == ["", ""]
    assert desk.notes == ["the supervisor was started anew; registering again"]


def test_a_folder_that_is_another_servers_is_the_users_mistake(tmp_path: Path) -> None:
    desk = Desk(folder(tmp_path))
    desk.answers(messages.HELLO, hello("one"))
    desk.answers(messages.REGISTER, RefusedError("conflict", "every server needs a folder"))
    with pytest.raises(ConfigError, match="every server needs a folder"):
        run(desk.node.run(patient=True))


def test_only_silence_that_it_was_awake_for_makes_it_give_up() -> None:
    """Its machine slept for an hour, and the next heartbeat is lost."""
    desk = Desk()
    desk.answers(messages.REGISTER, WELCOME)
    desk.answers(messages.SERVER_HEARTBEAT, beat("continue"))

    async def work() -> None:
        running = asyncio.ensure_future(desk.node.run(patient=True))
        await until(lambda: bool(desk.reports))
        desk.network.lose_request[messages.SERVER_HEARTBEAT] = 1
        desk.clock.seconds += 3600.0
        await until(lambda: not desk.network.lose_request[messages.SERVER_HEARTBEAT])
        desk.answers(messages.SERVER_HEARTBEAT, beat("stop"))
        await running

    run(work())


def test_a_folder_is_opened_for_the_run_that_the_supervisor_names(tmp_path: Path) -> None:
    for identity in ("one", "one", "two"):
        desk = Desk(folder(tmp_path))
        desk.answers(messages.HELLO, hello(identity))
        desk.answers(messages.REGISTER, msgspec.structs.replace(WELCOME, run=identity))
        desk.answers(messages.SERVER_HEARTBEAT, beat("stop"))
        if identity == "two":
            with pytest.raises(ConfigError, match="holds the logs of run one"):
                run(desk.node.run(patient=True))
            continue
        desk.network.lose_request[messages.HELLO] = 2
        run(desk.node.run(patient=True))
        (entry,) = desk.entries
        assert (entry.store, entry.run) == (f"{5:016x}", "one")


def test_a_server_that_is_no_supervisor_is_no_place_for_a_folder(tmp_path: Path) -> None:
    desk = Desk(folder(tmp_path))
    desk.answers(messages.HELLO, messages.HelloReply("", 0, supervisor=False, run=""))
    with pytest.raises(AddressError, match="further server without a supervisor"):
        run(desk.node.run(patient=True))
