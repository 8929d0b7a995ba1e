"""Reaching a supervisor, being refused by it, and joining when it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
import torch
from tiny_cluster import HOME, Network, TestClock, run, until
from torch import nn

from psedge.protocol import messages
from psedge.protocol.address import Address
from psedge.protocol.bundle import unpack
from psedge.protocol.calls import answer, read_body
from psedge.protocol.errors import AddressError, FrameError, ModelError, RefusedError
from psedge.protocol.ports import Incoming, Reply
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION
from psedge.worker.binding import Binding, layout_of
from psedge.worker.client import StopTraining
from psedge.worker.control import SupervisorClient
from psedge.worker.session import Identity, Session

HELLO = messages.HelloReply(__version__, WIRE_VERSION, True, "run")


class Desk:
    """A supervisor of canned answers."""

    def __init__(self) -> None:
        self.clock = TestClock()
        self.network = Network()
        self.notes: list[str] = []
        self.client = SupervisorClient(self.network, self.clock, HOME, self.notes.append)

    def answers(self, path: str, *replies: msgspec.Struct | Exception | bytes) -> None:
        """The replies in turn; the last one stays."""
        left = list(replies)

        async def handler(incoming: Incoming) -> Reply:
            reply = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(reply, Exception):
                raise reply
            return Reply([reply]) if isinstance(reply, bytes) else answer(reply)

        self.network.routes.setdefault(HOME.url, {})[path] = handler


def test_a_worker_may_be_started_before_the_server() -> None:
    desk = Desk()
    desk.answers(messages.HELLO, HELLO)
    desk.network.lose_request[messages.HELLO] = 30
    assert run(desk.client.reach()) == HELLO
    assert desk.notes[0] == "http://supervisor:7700 is not there; trying again"
    assert "answers again" in desk.notes[-1]
    reminders = [note for note in desk.notes if "trying on" in note]
    assert 1 <= len(reminders) <= desk.clock.now() / 10


def test_patience_ends_with_one_clear_line() -> None:
    desk = Desk()
    desk.answers(messages.HELLO, HELLO)
    desk.network.lose_request[messages.HELLO] = 10**6
    with pytest.raises(
        AddressError, match=r"http://supervisor:7700 does not answer.*psedge server"
    ):
        run(desk.client.reach(patience_seconds=20))
    assert 20 <= desk.clock.now() < 30


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (msgspec.structs.replace(HELLO, psedge="9.9", wire=99), r"9\.9 \(wire version 99\)"),
        (msgspec.structs.replace(HELLO, supervisor=False), "join line that the first"),
        (RefusedError("forbidden", "wrong token"), "wrong token"),
        (RefusedError("not-found", "no such page"), "not as psedge does"),
        (b"<html>", "not as psedge does"),
    ],
)
def test_a_wrong_address_is_told_at_once(
    reply: msgspec.Struct | Exception | bytes, reason: str
) -> None:
    desk = Desk()
    desk.answers(messages.HELLO, reply)
    with pytest.raises(AddressError, match=reason):
        run(desk.client.reach())


def test_waiting_for_servers_is_told_once_per_reason() -> None:
    desk = Desk()
    waiting = messages.Experiment("run", {}, None, "waiting", "2 more servers")
    ready = messages.Experiment("run", {}, layout_of(nn.Linear(1, 1)), "training")
    one = msgspec.structs.replace(waiting, waiting_for="1 more server")
    desk.answers(messages.EXPERIMENT, waiting, waiting, waiting, one, one, ready)
    assert run(desk.client.ready_experiment()) == ready
    assert desk.notes == ["waiting for 2 more servers", "waiting for 1 more server"]


def test_a_model_travels_whole_to_the_supervisor() -> None:
    desk = Desk()
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model[0].bias.requires_grad_(False)
    binding = Binding(model, layout_of(model), torch.device("cpu"))
    binding.read_model()
    received: list[bytes] = []

    async def define(incoming: Incoming) -> Reply:
        received.append(bytes(await read_body(incoming, 2**20)))
        return answer(messages.Acknowledged())

    desk.network.routes[HOME.url] = {messages.DEFINE: define}
    run(desk.client.define(binding.layout, binding.vectors))
    message, arrays = unpack(received[0], messages.Define)
    assert message.layout == binding.layout
    assert {name: array.tolist() for name, array in arrays.items()} == {
        name: array.tolist() for name, array in binding.vectors.items()
    }


def test_frozen_bytes_must_be_as_many_as_the_layout_says() -> None:
    desk = Desk()
    desk.answers(messages.FROZEN, b"12345")
    assert bytes(run(desk.client.frozen(5))) == b"12345"
    for length in (4, 6):
        with pytest.raises(FrameError):
            run(desk.client.frozen(length))


@pytest.mark.parametrize("tell", [True, False])
def test_what_can_wait_is_asked_until_the_supervisor_is_there_and_ready(tell: bool) -> None:
    desk = Desk()
    desk.answers(messages.FROZEN, RefusedError("not-ready", "it restores the run"), b"12345")
    desk.network.lose_request[messages.FROZEN] = 3
    frozen = desk.client.patiently(lambda: desk.client.frozen(5), tell=tell)
    assert bytes(run(frozen)) == b"12345"
    assert desk.network.calls.count(messages.FROZEN) == 5
    assert len(desk.notes) == (2 if tell else 0)


def test_a_refusal_is_not_waited_out() -> None:
    desk = Desk()
    desk.answers(messages.FROZEN, RefusedError("forbidden", "wrong token"))
    with pytest.raises(RefusedError, match="wrong token"):
        run(desk.client.patiently(lambda: desk.client.frozen(5)))


def _session(desk: Desk, model: nn.Module) -> Session:
    binding = Binding(model, layout_of(model), torch.device("cpu"))
    identity = Identity("pi", "test", 1, loader=True)
    return Session(desk.network, desk.clock, desk.client, binding, identity, desk.notes.append)


def test_another_model_is_refused_with_its_first_differing_tensor() -> None:
    desk = Desk()
    there = messages.Experiment("run", {}, layout_of(nn.Linear(4, 2)), "training")
    with pytest.raises(ModelError, match=r"weight.*\[2, 3\].*\[2, 4\]"):
        run(_session(desk, nn.Linear(3, 2)).start(there))


def test_a_join_waits_until_the_supervisor_is_ready_and_stops_when_asked() -> None:
    desk = Desk()
    model = nn.Linear(3, 2)
    desk.answers(messages.JOIN, RefusedError("not-ready", "1 more worker for up to 10 s"))
    desk.answers(messages.LEAVE, messages.Acknowledged())
    session = _session(desk, model)
    stop: Callable[[str], None] = session.request_stop

    async def work() -> None:
        experiment = messages.Experiment("run", {}, layout_of(model), "training")
        starting = asyncio.ensure_future(session.start(experiment))
        await until(lambda: desk.network.calls.count(messages.JOIN) >= 3)
        stop("Ctrl-C")
        with pytest.raises(StopTraining, match="Ctrl-C"):
            await starting
        await session.leave()

    run(work())
    assert desk.notes == ["waiting for 1 more worker for up to 10 s"]
    assert desk.network.calls[-1] == messages.LEAVE, "it may count as one that has come"


def test_addresses_do_not_show_their_token() -> None:
    assert "secret" not in repr(Address("http://a:1", "secret"))
