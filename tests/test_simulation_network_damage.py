"""Damaged bodies and changing links of the virtual network, and many disasters at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from virtual_network import FAST, LIMIT, PORT, Net, echo, on_network

from psedge.protocol.calls import bounded, read_body
from psedge.protocol.errors import DamagedError, FrameError, RefusedError, UnreachableError
from psedge.protocol.ports import Reply

MEGABYTE = bytes(2**20)


class TestDamage:
    def test_what_tcp_lets_through_the_checksum_finds(self):
        async def scenario(net):
            bodies, damaged = [], []

            async def handler(incoming):
                try:
                    bodies.append(bytes(await read_body(incoming, LIMIT)))
                except DamagedError:
                    damaged.append(incoming.path)
                    raise
                return Reply((bodies[-1],))

            await net.serve(handler)
            caller = net.caller()
            body = bytes(range(256)) * 100
            net.network.change_link("pi", corruption_undetected=0.3)
            answers, lost = set(), []
            for _ in range(200):
                try:
                    answers.add(await caller.call(parts=(body,)))
                except UnreachableError as error:
                    lost.append(str(error))
            assert all("damaged on its way" in message for message in lost)
            assert set(bodies) == answers == {body}
            assert 30 < len(damaged) < 90
            assert 30 < len(lost) - len(damaged) < 90, "replies"
            net.network.restore_link("pi")
            assert await caller.call(parts=(body,)) == body

        on_network(scenario)

    def test_what_a_handler_cannot_make_sense_of_may_be_damage(self):
        async def scenario(net):
            async def handler(incoming):
                await incoming.read_into(memoryview(bytearray(10)))
                raise FrameError("no sense in it")

            await net.serve(handler)
            caller = net.caller()
            with pytest.raises(RefusedError, match="no sense"):
                await caller.call(parts=(MEGABYTE,))
            net.network.change_link("pi", corruption_undetected=1.0)
            with pytest.raises(UnreachableError, match="damaged on its way"):
                await caller.call(parts=(MEGABYTE,))

        on_network(scenario)


class TestLinks:
    def test_a_link_may_change_and_be_restored(self):
        async def scenario(net):
            await net.serve(echo)
            caller = net.caller(link=replace(FAST, buffer_bytes=2**22))
            await caller.call()
            normal = await caller.seconds(parts=(MEGABYTE,))
            net.network.change_link("pi", bits_per_second=10e6)
            net.network.change_link("pi", delay_seconds=0.1)
            slow = await caller.seconds(parts=(MEGABYTE,))
            assert slow > 9 * normal + 0.2
            net.network.restore_link("pi")
            await asyncio.sleep(1)
            assert await caller.seconds(parts=(MEGABYTE,)) == pytest.approx(normal, rel=0.1)

        on_network(scenario)

    def test_bytes_are_conserved(self):
        async def scenario(net):
            await net.serve(echo)
            for index in range(3):
                await net.caller(f"pi-{index}").call(parts=(MEGABYTE,))
            sent = sum(net.network.sent_bytes(f"pi-{index}") for index in range(3))
            got = sum(net.network.received_bytes(f"pi-{index}") for index in range(3))
            assert sent == net.network.received_bytes("pc")
            assert got == net.network.sent_bytes("pc")

        on_network(scenario)


def test_a_hundred_random_disasters_leave_nothing_open():
    async def scenario(net: Net) -> None:
        await net.serve(echo)
        random = net.network.random
        net.network.change_link("pc", loss=0.01, corruption_undetected=0.01)
        callers = {name: net.caller(name) for name in ("a", "b", "c")}
        answered = 0

        async def work(name):
            nonlocal answered
            for _ in range(100):
                body = bytes(random.randrange(200_000))
                try:
                    assert await callers[name].call(parts=(body,), timeout_seconds=5) == body
                    answered += 1
                except UnreachableError:
                    await asyncio.sleep(0.5)

        async def disasters():
            for _ in range(100):
                await asyncio.sleep(random.random())
                name = random.choice(("a", "b", "c"))
                match random.randrange(4):
                    case 0:
                        net.network.reset_connections(name)
                    case 1:
                        net.network.half_open("pc", name)
                    case 2:
                        key = net.network.partition([name], ["pc"])
                        await asyncio.sleep(random.random())
                        net.network.heal(key)
                    case 3:
                        net.network.freeze(name)
                        await asyncio.sleep(random.random())
                        net.network.thaw(name)

        await asyncio.gather(*(work(name) for name in callers), disasters())
        assert answered > 200
        for caller in callers.values():
            await caller.transport.close()
        await asyncio.sleep(1000)
        assert not any(host.connections for host in net.network.hosts.values())

    assert on_network(scenario, 3).digest == on_network(scenario, 3).digest


def test_calls_of_a_transport_of_another_process_on_the_same_host_go_on():
    async def scenario(net):
        await net.serve(echo)
        caller = net.caller()
        other = net.network.transport("pi")
        await caller.call()
        await caller.transport.close()
        reply = await other.call(
            f"http://pc:{PORT}", "/echo", (b"x",), allocate=bounded(10), timeout_seconds=5
        )
        assert bytes(reply) == b"x"

    on_network(scenario)
