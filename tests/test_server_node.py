"""A further server and its supervisor: coming in, being turned away, a supervisor that restarts."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tiny_cluster import HOME, Network, TestClock, run, until

from psedge.protocol import messages
from psedge.protocol.calls import answer, read_message
from psedge.protocol.errors import (
    AddressError,
    PsedgeError,
    RefusedError,
    UnreachableError,
)
from psedge.protocol.ports import Incoming, Reply
from psedge.protocol.shards import ServerReport
from psedge.server.node import ServerNode
from psedge.server.service import ShardService

WELCOME = messages.RegisterReply(1, 10.0, 1.0)
HTML = msgspec.defstruct("Html", [("page", str)])("hi")
Script = msgspec.Struct | Exception


class Desk:
    """A supervisor that answers as it is told to; the last answer stays."""

    def __init__(self) -> None:
        self.clock, self.network = TestClock(), Network()
        self.notes: list[str] = []
        self.reports: list[ServerReport] = []
        self.node = ServerNode(
            ShardService(self.clock),
            HOME,
            host="127.0.0.1",
            port=7701,
            incarnation=42,
            transport=self.network,
            clock=self.clock,
            notify=self.notes.append,
        )

    def answers(self, path: str, *replies: Script) -> None:
        left = list(replies)

        async def handler(incoming: Incoming) -> Reply:
            if path == messages.SERVER_HEARTBEAT:
                self.reports.append(await read_message(incoming, ServerReport))
            reply = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(reply, Exception):
                raise reply
            return answer(reply)

        self.network.routes.setdefault(HOME.url, {})[path] = handler


def beat(command: str) -> messages.ServerHeartbeatReply:
    return messages.ServerHeartbeatReply(command)  # type: ignore[arg-type]


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
