"""What every Transport must do, as one suite: the real one and the virtual one run it alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest

from psedge.protocol.calls import bounded, read_body
from psedge.protocol.errors import (
    REFUSAL_CODES,
    AddressError,
    ConfigError,
    DamagedError,
    FrameError,
    RefusedError,
    UnreachableError,
)
from psedge.protocol.ports import Buffer, Handler, Incoming, Listener, Reply, Transport

LIMIT = 8 * 2**20
PATIENCE_SECONDS = 20.0


@dataclass
class World:
    """Two machines that can reach each other, and a host name on which the first may listen."""

    server: Transport
    client: Transport
    host: str

    async def listen(self, handler: Handler, limit: int = LIMIT) -> Listener:
        return await self.server.listen(self.host, 0, handler, body_limit_bytes=limit)

    async def call(
        self,
        listener: Listener,
        path: str = "/echo",
        parts: Sequence[Buffer] = (),
        *,
        timeout_seconds: float = PATIENCE_SECONDS,
        token: str = "",
    ) -> memoryview:
        return await self.client.call(
            f"http://{listener.host}:{listener.port}",
            path,
            parts,
            allocate=bounded(LIMIT),
            timeout_seconds=timeout_seconds,
            token=token,
        )


Scenario = Callable[[World], Awaitable[None]]


async def echo(incoming: Incoming) -> Reply:
    return Reply((await read_body(incoming, LIMIT),))


async def soon(awaitable: Awaitable[object]) -> object:
    return await asyncio.wait_for(awaitable, PATIENCE_SECONDS)


class Endless:
    """A handler that never answers, and says when it was called and when it was cancelled."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, incoming: Incoming) -> Reply:
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError


class TransportConformance:
    """Subclasses say how to run a scenario in their world."""

    def run(self, scenario: Scenario) -> None:
        raise NotImplementedError

    @pytest.mark.parametrize(
        "parts",
        [
            (),
            (b"",),
            (b"x",),
            (bytearray(range(256)) * 4096, b"", memoryview(b"middle"), bytes(2_000_000)),
            tuple(bytes([index]) for index in range(200)),
        ],
        ids=["nothing", "empty", "one-byte", "3-MB", "many-parts"],
    )
    def test_echo(self, parts):
        async def scenario(world):
            listener = await world.listen(echo)
            for _ in range(3):
                assert bytes(await world.call(listener, parts=parts)) == b"".join(parts)

        self.run(scenario)

    def test_reply_in_parts(self):
        async def handler(incoming):
            return Reply((b"ab", memoryview(bytes(1_000_000)), bytearray(b"c"), b""))

        async def scenario(world):
            listener = await world.listen(handler)
            assert bytes(await world.call(listener)) == b"ab" + bytes(1_000_000) + b"c"

        self.run(scenario)

    def test_memory_of_wider_items_is_sent_as_its_bytes(self):
        async def handler(incoming):
            body = await read_body(incoming, LIMIT)
            return Reply((body.cast("I"), memoryview(bytes(8)).cast("d")))

        async def scenario(world):
            listener = await world.listen(handler)
            parts = (memoryview(bytes(range(12))).cast("I"),)
            assert bytes(await world.call(listener, parts=parts)) == bytes(range(12)) + bytes(8)

        self.run(scenario)

    def test_handler_sees_path_token_peer_and_length(self):
        seen = []

        async def handler(incoming):
            seen.append((incoming.path, incoming.token, incoming.length, bool(incoming.peer)))
            return Reply()

        async def scenario(world):
            listener = await world.listen(handler)
            await world.call(listener, "/v1/a-b", (b"12", b"345"), token="Tok-1_")
            await world.call(listener, "/other")

        self.run(scenario)
        assert seen == [("/v1/a-b", "Tok-1_", 5, True), ("/other", "", 0, True)]

    def test_body_is_read_piece_by_piece(self):
        async def handler(incoming):
            pieces = [memoryview(bytearray(size)) for size in (1, 96, 0, 500_000, 499_903)]
            for piece in pieces:
                await incoming.read_into(piece)
            return Reply(pieces)

        async def scenario(world):
            listener = await world.listen(handler)
            body = bytes(range(250)) * 4002
            assert bytes(await world.call(listener, parts=(body,))) == body[:1_000_000]

        self.run(scenario)

    def test_reading_past_the_end_is_a_frame_error(self):
        async def handler(incoming):
            await incoming.read_into(memoryview(bytearray(3)))
            await incoming.read_into(memoryview(bytearray(3)))
            raise AssertionError

        async def scenario(world):
            listener = await world.listen(handler)
            with pytest.raises(RefusedError) as caught:
                await world.call(listener, parts=(b"12345",))
            assert caught.value.code == "bad-frame"

        self.run(scenario)

    def test_parallel_calls_do_not_mix(self):
        async def scenario(world):
            listener = await world.listen(echo)

            async def one(index):
                body = bytes([index]) * (1 + 50_000 * index)
                assert bytes(await world.call(listener, parts=(body,))) == body

            await asyncio.gather(*(one(index) for index in range(16)))

        self.run(scenario)

    def test_calls_overtake_each_other(self):
        async def scenario(world):
            release = asyncio.Event()

            async def handler(incoming):
                if incoming.path == "/slow":
                    await release.wait()
                return Reply((incoming.path.encode(),))

            listener = await world.listen(handler)
            slow = asyncio.ensure_future(world.call(listener, "/slow"))
            assert bytes(await world.call(listener, "/fast")) == b"/fast"
            assert not slow.done()
            release.set()
            assert bytes(await slow) == b"/slow"

        self.run(scenario)

    @pytest.mark.parametrize("code", [code for code in REFUSAL_CODES if code != "damaged"])
    def test_refusals_keep_code_and_message(self, code):
        async def handler(incoming):
            raise RefusedError(code, f"no: {code}, für dich")

        async def scenario(world):
            listener = await world.listen(handler)
            for _ in range(2):
                with pytest.raises(RefusedError, match=f"no: {code}, für dich") as caught:
                    await world.call(listener, parts=(b"unread",))
                assert caught.value.code == code

        self.run(scenario)

    def test_a_request_called_damaged_counts_as_lost(self):
        async def handler(incoming):
            raise DamagedError("a bit flipped")

        async def scenario(world):
            listener = await world.listen(handler)
            with pytest.raises(UnreachableError, match="damaged on its way"):
                await world.call(listener, parts=(b"x",))

        self.run(scenario)

    @pytest.mark.parametrize(
        ("error", "code", "words"),
        [
            (FrameError("odd bytes"), "bad-frame", "odd bytes"),
            (ConfigError("odd value"), "bad-request", "odd value"),
            (UnreachableError("other peer silent"), "internal", "other peer silent"),
            (ZeroDivisionError("secret detail"), "internal", "ZeroDivisionError"),
        ],
    )
    def test_other_errors_become_refusals_and_the_listener_lives_on(self, error, code, words):
        async def handler(incoming):
            if incoming.path == "/echo":
                return await echo(incoming)
            raise error

        async def scenario(world):
            listener = await world.listen(handler)
            with pytest.raises(RefusedError, match=words) as caught:
                await world.call(listener, "/fail")
            assert caught.value.code == code
            assert "secret" not in str(caught.value)
            assert bytes(await world.call(listener, parts=(b"on",))) == b"on"

        self.run(scenario)

    def test_a_body_over_the_limit_is_refused_before_the_handler(self):
        calls = []

        async def handler(incoming):
            calls.append(incoming.length)
            return await echo(incoming)

        async def scenario(world):
            listener = await world.listen(handler, limit=1000)
            with pytest.raises(RefusedError) as caught:
                await world.call(listener, parts=(bytes(1001),))
            assert caught.value.code == "too-large"
            assert len(await world.call(listener, parts=(bytes(1000),))) == 1000

        self.run(scenario)
        assert calls == [1000]

    def test_a_reply_over_the_callers_limit_is_a_frame_error(self):
        async def handler(incoming):
            return Reply((bytes(LIMIT), b"x"))

        async def scenario(world):
            listener = await world.listen(handler)
            for _ in range(2):
                with pytest.raises(FrameError):
                    await world.call(listener)

        self.run(scenario)

    def test_no_reply_in_time_is_unreachable_and_cancels_the_handler(self):
        async def scenario(world):
            handler = Endless()
            listener = await world.listen(handler)
            with pytest.raises(UnreachableError) as caught:
                await world.call(listener, timeout_seconds=0.3)
            assert not caught.value.refused
            await soon(handler.cancelled.wait())

        self.run(scenario)

    def test_a_cancelled_call_cancels_the_handler(self):
        async def scenario(world):
            handler = Endless()
            listener = await world.listen(handler)
            call = asyncio.ensure_future(world.call(listener))
            await soon(handler.started.wait())
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await soon(handler.cancelled.wait())

        self.run(scenario)

    def test_a_caller_that_goes_in_the_middle_of_its_body_never_looks_complete(self):
        limit = 64 * 2**20

        async def scenario(world):
            started, gone, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
            outcome = []

            async def handler(incoming):
                try:
                    await incoming.read_into(memoryview(bytearray(1)))
                    started.set()
                    # While nobody reads, the sender cannot have sent the rest of its body.
                    await gone.wait()
                    await incoming.read_into(memoryview(bytearray(limit - 1)))
                    outcome.append("complete")
                except (FrameError, asyncio.CancelledError) as error:
                    outcome.append(type(error).__name__)
                    raise
                finally:
                    ended.set()
                return Reply()

            listener = await world.listen(handler, limit)
            call = asyncio.ensure_future(world.call(listener, parts=(bytes(limit),)))
            await soon(started.wait())
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            gone.set()
            await soon(ended.wait())
            assert outcome in (["FrameError"], ["CancelledError"])

        self.run(scenario)

    def test_nobody_listening_is_unreachable(self):
        async def scenario(world):
            listener = await world.listen(echo)
            await listener.close()
            for _ in range(2):
                with pytest.raises(UnreachableError) as caught:
                    await world.call(listener)
                assert caught.value.refused

        self.run(scenario)

    def test_closing_a_listener_ends_what_is_in_flight_and_frees_the_port(self):
        async def scenario(world):
            handler = Endless()
            listener = await world.listen(handler)
            call = asyncio.ensure_future(world.call(listener))
            await soon(handler.started.wait())
            await soon(listener.close())
            with pytest.raises(UnreachableError) as caught:
                await soon(call)
            assert not caught.value.refused
            assert handler.cancelled.is_set()
            again = await world.server.listen(
                listener.host, listener.port, echo, body_limit_bytes=LIMIT
            )
            assert again.port == listener.port
            assert bytes(await world.call(again, parts=(b"back",))) == b"back"

        self.run(scenario)

    def test_a_port_in_use_is_an_address_error(self):
        async def scenario(world):
            listener = await world.listen(echo)
            with pytest.raises(AddressError, match=str(listener.port)):
                await world.server.listen(
                    listener.host, listener.port, echo, body_limit_bytes=LIMIT
                )
            assert bytes(await world.call(listener, parts=(b"still",))) == b"still"

        self.run(scenario)

    def test_two_listeners_have_two_ports(self):
        async def scenario(world):
            first, second = await world.listen(echo), await world.listen(echo)
            assert first.port != second.port
            assert first.port > 0

        self.run(scenario)

    def test_a_closed_transport_is_unreachable_for_its_own_calls(self):
        async def scenario(world):
            listener = await world.listen(echo)
            await world.client.close()
            with pytest.raises(UnreachableError):
                await world.call(listener)

        self.run(scenario)
