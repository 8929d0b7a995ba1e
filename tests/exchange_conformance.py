"""What every Transport must do at each moment of an exchange: order, back-pressure, errors, ends.

A part of the conformance suite beside `transport_conformance.py`, run in the same worlds.
"""

from __future__ import annotations

import asyncio

import pytest
from transport_conformance import LIMIT, Endless, World, echo, soon

from psedge.protocol.calls import bounded, read_body
from psedge.protocol.errors import FrameError, RefusedError, UnreachableError
from psedge.protocol.ports import Incoming, Reply

LONG = 32 * 2**20
#: Where an exchange can be when something befalls it.
MOMENTS = ("before-body", "in-body", "after-body", "in-reply")


class At:
    """Brings an exchange to a moment, and holds it there until the test lets it go."""

    def __init__(self, world: World, moment: str) -> None:
        self.moment = moment
        self.reached = asyncio.Event()
        self.release = asyncio.Event()
        self.read = bytearray()
        self.replied = False
        self._world = world

    async def handler(self, incoming: Incoming) -> Reply:
        if incoming.path == "/echo":
            return await echo(incoming)
        body = bytearray(incoming.length)
        first = {"before-body": 0, "in-body": 1}.get(self.moment, incoming.length)
        await incoming.read_into(memoryview(body)[:first])
        if self.moment != "in-reply":
            self.reached.set()
            await self.release.wait()
        await incoming.read_into(memoryview(body)[first:])
        self.read = body
        self.replied = True
        return Reply((bytes(LONG),))

    def allocate(self, length: int) -> memoryview:
        """The head of the reply is here, and hardly more of it."""
        self.reached.set()
        return memoryview(bytearray(length))

    def begin(
        self, url: str, body: bytes | bytearray, timeout_seconds: float = 20.0
    ) -> asyncio.Task:
        return asyncio.ensure_future(
            self._world.client.call(
                url, "/held", (body,), allocate=self.allocate, timeout_seconds=timeout_seconds
            )
        )


class ExchangeConformance:
    """Subclasses say how to run a scenario in their world."""

    def run(self, scenario):
        raise NotImplementedError

    def test_calls_in_turn_are_handled_in_order(self):
        async def scenario(world):
            seen = []

            async def handler(incoming):
                seen.append(bytes(await read_body(incoming, LIMIT)))
                return Reply()

            listener = await world.listen(handler)
            sent = [bytes([index]) * (1 + 9973 * index % 50_000) for index in range(30)]
            for body in sent:
                await world.call(listener, parts=(body,))
            assert seen == sent

        self.run(scenario)

    def test_a_body_nobody_reads_holds_up_neither_other_calls_nor_memory(self):
        async def scenario(world):
            at = At(world, "in-body")
            listener = await world.listen(at.handler, LONG)
            body = bytes(range(256)) * (LONG // 256)
            held = at.begin(f"http://{listener.host}:{listener.port}", body)
            await soon(at.reached.wait())
            for _ in range(5):
                small = bytes(200_000)
                assert bytes(await world.call(listener, parts=(small,))) == small
            assert not held.done()
            at.release.set()
            assert len(await held) == LONG
            assert at.read == body

        self.run(scenario)

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_a_call_may_be_cancelled_at_any_moment(self, moment):
        async def scenario(world):
            at = At(world, moment)
            listener = await world.listen(at.handler, LONG)
            body = bytearray(LONG)
            call = at.begin(f"http://{listener.host}:{listener.port}", body)
            await soon(at.reached.wait())
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            # The parts are the caller's own again: nobody may read what they are now.
            body[:] = b"\xff" * LONG
            at.release.set()
            assert bytes(await world.call(listener, parts=(b"next",))) == b"next"
            assert not at.replied or moment in MOMENTS[2:]
            assert not any(at.read)

        self.run(scenario)

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_a_server_may_close_at_any_moment(self, moment):
        async def scenario(world):
            at = At(world, moment)
            listener = await world.listen(at.handler, LONG)
            call = at.begin(f"http://{listener.host}:{listener.port}", bytes(LONG))
            await soon(at.reached.wait())
            await soon(listener.close())
            if moment == "in-reply":
                # What had left the server before may still arrive, whole or not at all.
                (result,) = await asyncio.gather(call, return_exceptions=True)
                assert isinstance(result, UnreachableError) or len(result) == LONG
            else:
                with pytest.raises(UnreachableError):
                    await soon(call)
                assert not at.replied
            with pytest.raises(UnreachableError):
                await world.call(listener)

        self.run(scenario)

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_a_caller_may_close_its_transport_at_any_moment(self, moment):
        async def scenario(world):
            at = At(world, moment)
            listener = await world.listen(at.handler, LONG)
            call = at.begin(f"http://{listener.host}:{listener.port}", bytes(LONG))
            await soon(at.reached.wait())
            await world.client.close()
            with pytest.raises(UnreachableError):
                await soon(call)
            at.release.set()
            reply = await world.server.call(
                f"http://{listener.host}:{listener.port}",
                "/echo",
                (b"still here",),
                allocate=bounded(LIMIT),
                timeout_seconds=20,
            )
            assert bytes(reply) == b"still here"
            assert not at.replied or moment in MOMENTS[2:]

        self.run(scenario)

    @pytest.mark.parametrize("moment", MOMENTS[:3])
    def test_patience_may_end_at_any_moment(self, moment):
        async def scenario(world):
            at = At(world, moment)
            listener = await world.listen(at.handler, LONG)
            url = f"http://{listener.host}:{listener.port}"
            call = at.begin(url, bytes(LONG), timeout_seconds=1.0)
            await soon(at.reached.wait())
            with pytest.raises(UnreachableError, match="gave no answer in 1 s"):
                await soon(call)
            at.release.set()
            assert bytes(await world.call(listener, parts=(b"next",))) == b"next"
            assert not at.replied or moment in MOMENTS[2:]

        self.run(scenario)

    def test_a_handler_may_refuse_before_it_has_read_the_body(self):
        async def handler(incoming):
            if incoming.path == "/echo":
                return await echo(incoming)
            raise RefusedError("unknown-worker", "who are you?")

        async def scenario(world):
            listener = await world.listen(handler, LONG)
            for size in (0, 1, 100_000):
                with pytest.raises(RefusedError, match="who are you"):
                    await world.call(listener, "/push", (bytes(size),))
            # A caller that is still sending when it is refused may find its connection closed.
            with pytest.raises((RefusedError, UnreachableError)):
                await world.call(listener, "/push", (bytes(LONG),))
            assert bytes(await world.call(listener, parts=(b"next",))) == b"next"

        self.run(scenario)

    def test_a_refusal_does_not_ask_for_memory(self):
        async def handler(incoming):
            raise RefusedError("stopped", "the run has ended")

        async def scenario(world):
            def never(length):
                raise AssertionError

            listener = await world.listen(handler)
            with pytest.raises(RefusedError):
                await world.client.call(
                    f"http://{listener.host}:{listener.port}",
                    "/x",
                    (b"x",),
                    allocate=never,
                    timeout_seconds=20,
                )

        self.run(scenario)

    def test_memory_is_asked_for_once_and_given_back_as_it_was(self):
        async def scenario(world):
            given = []

            def allocate(length):
                given.append(memoryview(bytearray(length)))
                return given[-1]

            listener = await world.listen(echo)
            for body in (b"", b"abc", bytes(300_000)):
                reply = await world.client.call(
                    f"http://{listener.host}:{listener.port}",
                    "/echo",
                    (body,),
                    allocate=allocate,
                    timeout_seconds=20,
                )
                assert reply is given.pop()
                assert not given
                assert bytes(reply) == body

        self.run(scenario)

    def test_a_handler_that_ends_its_reading_with_an_error_is_done_with_the_body(self):
        async def handler(incoming):
            if incoming.path == "/echo":
                return await echo(incoming)
            await incoming.read_into(memoryview(bytearray(100)))
            raise FrameError("the first 100 bytes make no sense")

        async def scenario(world):
            listener = await world.listen(handler)
            for _ in range(3):
                with pytest.raises(RefusedError, match="make no sense") as caught:
                    await world.call(listener, "/push", (bytes(150_000),))
                assert caught.value.code == "bad-frame"
                assert bytes(await world.call(listener, parts=(b"next",))) == b"next"

        self.run(scenario)

    def test_many_calls_that_end_early_leave_nothing_behind(self):
        async def scenario(world):
            endless = Endless()
            running, idle = 0, asyncio.Event()

            async def handler(incoming):
                nonlocal running
                if incoming.path == "/echo":
                    return await echo(incoming)
                running += 1
                idle.clear()
                try:
                    return await endless(incoming)
                finally:
                    running -= 1
                    if not running:
                        idle.set()

            listener = await world.listen(handler)
            calls = [
                asyncio.ensure_future(world.call(listener, "/wait", (bytes(1000 * index),)))
                for index in range(20)
            ]
            await soon(endless.started.wait())
            for index, call in enumerate(calls):
                call.cancel()
                if index % 5 == 0:
                    body = bytes([index]) * 10
                    assert bytes(await world.call(listener, parts=(body,))) == body
            await asyncio.gather(*calls, return_exceptions=True)
            await soon(idle.wait())
            assert bytes(await world.call(listener, parts=(b"next",))) == b"next"

        self.run(scenario)
