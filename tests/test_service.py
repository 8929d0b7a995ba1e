"""The shell of a parameter server, on requests made of data."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_cluster import HOME, Network, TestClock

from psedge.compression.codec import EncoderState
from psedge.compression.coder import Coder, coder_of_frame
from psedge.compression.lossless import stage_named
from psedge.compression.table import codec_named
from psedge.protocol.bundle import pack
from psedge.protocol.calls import ask, ask_bytes, bounded
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import RefusedError
from psedge.protocol.layout import TensorSlice
from psedge.protocol.messages import EXCHANGE, SHARD_ASSIGN, SHARD_MEMBERS
from psedge.protocol.shards import (
    Assignment,
    GroupSettings,
    Member,
    Members,
    OptimizerSettings,
    ScheduleSettings,
    Segment,
    ServerReport,
    ShardOrder,
    SyncSettings,
)
from psedge.protocol.wire import (
    HEADER_BYTES,
    NO_POSITION,
    Content,
    Flag,
    Header,
    Kind,
    Status,
    decode_header,
    encode_header,
)
from psedge.server.service import ShardService

ELEMENTS = 300
GRADIENT = np.linspace(-1, 1, ELEMENTS, dtype=np.float32)


def assignment(mode: Any, **further: Any) -> Assignment:
    """300 parameters, 280 of them in matrices, two buffers."""
    return Assignment(
        0, 0, ELEMENTS, 0, 2, 0, (Segment(0, ELEMENTS, 0),),
        OptimizerSettings("sgd", (GroupSettings(lr=1.0),)),
        ScheduleSettings(), SyncSettings(mode), (TensorSlice(0, 280, 28),), **further,
    )  # fmt: skip


class Rig:
    """One shard on its server, and requests to it."""

    def __init__(self, placed: Assignment, workers: int = 2) -> None:
        self.placed, self.workers = placed, workers
        self.clock, self.network = TestClock(), Network()
        self.service = ShardService(self.clock)
        self.network.routes[HOME.url] = self.service.routes()

    async def start(self) -> Rig:
        arrays = {
            "parameters": np.zeros(ELEMENTS, np.float32),
            "buffers": np.zeros(2, np.float32),
            "counters": np.zeros(0, np.uint8),
        }
        body = pack(ShardOrder(self.placed), arrays)
        await ask_bytes(
            self.network, HOME, SHARD_ASSIGN, [body], limit_bytes=100, timeout_seconds=1.0
        )
        await self.tell(*range(self.workers))
        return self

    async def tell(self, *workers: int) -> None:
        members = Members(1 + len(self.network.calls), tuple(Member(one, 1) for one in workers))
        await ask(self.network, HOME, SHARD_MEMBERS, members, ServerReport)

    @property
    def parameters(self) -> NDArray[np.float32]:
        return self.service._hosted[0].shard.parameters

    async def push(
        self,
        worker: int,
        sequence: int = 1,
        codec: str = "identity",
        stage: str = "none",
        gradient: NDArray[np.float32] = GRADIENT,
        **fields: Any,
    ) -> tuple[Header, memoryview]:
        coder = Coder(codec_named(codec, CodingSettings()), stage_named(stage), self.placed.slice)
        payload = b"".join(coder.encode(gradient, None, EncoderState()).parts)
        return await self.send(
            Kind.EXCHANGE, worker, payload, sequence=sequence, codec=coder.codec.id,
            codec_parameters=coder.codec.parameters(), lossless=coder.lossless.id, **fields,
        )  # fmt: skip

    async def send(
        self, kind: Kind, worker: int, body: bytes = b"", **fields: Any
    ) -> tuple[Header, memoryview]:
        sizes = {"payload_bytes": len(body)} if "payload_bytes" not in fields else {}
        fields = {"flags": Flag.GATED, "samples": 1, "position": NO_POSITION, **sizes, **fields}
        header = Header(kind, 0, worker, 1, **fields)
        reply = await self.network.call(
            HOME.url,
            EXCHANGE,
            [encode_header(header), body],
            allocate=bounded(10_000),
            timeout_seconds=1.0,
        )
        return decode_header(reply[:HEADER_BYTES]), reply[HEADER_BYTES:]


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 30))


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def codec_id(name: str) -> int:
    return codec_named(name, CodingSettings()).id


def test_a_request_whose_place_was_taken_does_not_pass_the_gate() -> None:
    async def story() -> None:
        rig = await Rig(assignment("bsp")).start()
        first = asyncio.ensure_future(rig.push(0))
        await turns()
        assert not first.done()
        second = asyncio.ensure_future(rig.send(Kind.PULL, 0))
        header, body = await first
        assert (header.content, header.status, len(body)) == (Content.NONE, Status.APPLIED, 0)
        assert not second.done()
        await rig.push(1)
        header, body = await second
        assert (header.content, header.version, len(body)) == (Content.WHOLE, 1, 4 * ELEMENTS)

    run(story())


@pytest.mark.parametrize("codec", ["identity", "float16", "q4", "top-k"])
@pytest.mark.parametrize("stage", ["none", "deflate"])
def test_a_push_is_applied_as_its_codec_decodes_it(codec: str, stage: str) -> None:
    async def story() -> None:
        rig = await Rig(assignment("asp")).start()
        _, body = await rig.push(0, codec=codec, stage=stage)
        coder = Coder(codec_named(codec, CodingSettings()), stage_named(stage), rig.placed.slice)
        payload = b"".join(coder.encode(GRADIENT, None, EncoderState()).parts)
        decoded = np.zeros(ELEMENTS, np.float32)
        coder.open(memoryview(payload)).decode(decoded)
        assert decoded[280:].tobytes() == GRADIENT[280:].tobytes()
        np.testing.assert_array_equal(rig.parameters, -decoded)
        assert bytes(body) == rig.parameters.tobytes()

    run(story())


def test_pulls_come_as_a_snapshot_and_then_as_differences() -> None:
    async def story() -> None:
        rig = await Rig(assignment("asp")).start()
        model = np.full(ELEMENTS, np.nan, np.float32)
        position, contents = NO_POSITION, []
        for sequence in range(1, 6):
            fields = {"position": position, "reply_codec": codec_id("q8"), "reply_lossless": 3}
            header, body = await rig.push(0, sequence, **fields)
            contents.append(header.content)
            coder = coder_of_frame(
                header.codec, header.codec_parameters, header.lossless, rig.placed.slice
            )
            if header.content is Content.WHOLE:
                coder.open(body).decode(model)
            else:
                assert (header.deltas, int.from_bytes(body[:4], "little")) == (1, len(body) - 4)
                coder.open(body[4:]).decode_delta(model)
            assert header.lossless == 3
            position = header.position
            np.testing.assert_allclose(model, rig.parameters, atol=0.03)
        assert contents == [Content.WHOLE] + [Content.DELTAS] * 4

    run(story())


@pytest.mark.parametrize("pull", ["identity", "q8"])
def test_delay_compensation_knows_what_each_worker_computed_on(pull: str) -> None:
    async def story() -> None:
        strength = 0.5
        optimizer = OptimizerSettings("sgd", (GroupSettings(lr=1.0),), delay_compensation=strength)
        rig = await Rig(msgspec.structs.replace(assignment("asp"), optimizer=optimizer)).start()
        fields = {"reply_codec": codec_id(pull)}
        positions = [(await rig.send(Kind.PULL, worker, **fields))[0].position for worker in (0, 1)]
        await rig.push(0, gradient=GRADIENT, position=positions[0], **fields)
        before = rig.parameters.copy()
        await rig.push(1, gradient=GRADIENT, position=positions[1], **fields)
        compensated = GRADIENT + strength * GRADIENT * GRADIENT * before
        np.testing.assert_allclose(rig.parameters, before - compensated, rtol=1e-5, atol=1e-6)
        before = rig.parameters.copy()
        await rig.push(1, 2, gradient=GRADIENT, position=NO_POSITION, **fields)
        np.testing.assert_allclose(rig.parameters, before - GRADIENT, rtol=1e-5, atol=1e-6)

    run(story())


@pytest.mark.parametrize("pull", ["identity", "q8"])
def test_weight_prediction_sends_workers_ahead_and_keeps_the_chain(pull: str) -> None:
    async def story() -> None:
        optimizer = OptimizerSettings("sgd", (GroupSettings(lr=0.1, momentum=0.9),))
        sync = SyncSettings("asp", weight_prediction=True)
        placed = msgspec.structs.replace(assignment("asp"), optimizer=optimizer, sync=sync)
        rig = await Rig(placed).start()
        position, model = NO_POSITION, np.zeros(ELEMENTS, np.float32)
        for sequence in range(1, 80):
            header, body = await rig.push(
                0,
                sequence,
                version=max(0, sequence - 3),
                position=position,
                reply_codec=codec_id(pull),
            )
            coder = coder_of_frame(
                header.codec, header.codec_parameters, header.lossless, placed.slice
            )
            if header.content is Content.WHOLE:
                coder.open(body).decode(model)
            else:
                coder.open(body[4:]).decode_delta(model)
            position = header.position
        ahead = rig.service._hosted[0].shard.published()
        assert np.abs(ahead - rig.parameters).max() > 0.1
        np.testing.assert_allclose(model, ahead, atol=0.02)

    run(story())


def test_a_round_takes_payloads_of_several_codecs() -> None:
    async def story() -> None:
        rig = await Rig(assignment("bsp")).start()
        first = asyncio.ensure_future(rig.push(0, codec="q4", stage="deflate"))
        await turns()
        await rig.push(1, samples=3)
        await first
        np.testing.assert_allclose(rig.parameters, -GRADIENT, atol=0.019)

    run(story())


def test_a_round_keeps_payloads_in_memory_that_others_do_not_write_to() -> None:
    async def story() -> None:
        rig = await Rig(assignment("bsp"), workers=20).start()
        pushes = [
            asyncio.ensure_future(rig.push(worker, gradient=np.full(ELEMENTS, worker, np.float32)))
            for worker in range(19)
        ]
        await turns(100)
        hosted = rig.service._hosted[0]
        assert len(hosted.lent_buffers) == hosted.shard.kept_payloads == 3
        await rig.tell(*range(19))
        await asyncio.gather(*pushes)
        np.testing.assert_allclose(rig.parameters, -9.0, rtol=1e-6)
        assert hosted.lent_buffers == []
        assert len(hosted.receive_buffers) < 12, "eight that were kept, and those under way"

    run(story())


def test_a_push_without_its_gradient_is_refused_and_moves_on() -> None:
    async def story() -> None:
        rig = await Rig(assignment("asp")).start()
        header, body = await rig.send(
            Kind.EXCHANGE, 0, sequence=1, flags=Flag.GATED | Flag.NONFINITE
        )
        assert (header.status, header.clock) == (Status.REFUSED_NONFINITE, 1)
        assert len(body) == 4 * ELEMENTS
        with pytest.raises(RefusedError, match="at most 0 bytes"):
            await rig.push(0, 2, flags=Flag.NONFINITE)

    run(story())


def test_buffers_come_only_if_asked_for_and_changed() -> None:
    async def story() -> None:
        rig = await Rig(assignment("asp")).start()
        body = GRADIENT.tobytes() + np.float32([3, 4]).tobytes()
        sizes = {"payload_bytes": 4 * ELEMENTS, "buffers_bytes": 8}
        header, _ = await rig.send(Kind.EXCHANGE, 0, body, sequence=1, buffers_version=0, **sizes)
        assert (header.buffers_bytes, header.buffers_version) == (0, 0)
        flags = Flag.GATED | Flag.BUFFERS
        header, body = await rig.send(Kind.PULL, 0, buffers_version=0, samples=0, flags=flags)
        assert (header.buffers_bytes, header.buffers_version) == (8, 1)
        assert np.frombuffer(body[-8:], "<f4").tolist() == [3, 4]
        header, _ = await rig.send(Kind.PULL, 0, buffers_version=1, samples=0, flags=flags)
        assert (header.buffers_bytes, header.buffers_version) == (0, 1)

    run(story())


def test_a_reply_says_how_long_the_body_was_on_its_way() -> None:
    async def story() -> None:
        rig = await Rig(assignment("asp")).start()

        class Slow:
            path, peer, token, length = EXCHANGE, "", "", HEADER_BYTES + 4 * ELEMENTS
            left = encode_header(
                Header(Kind.EXCHANGE, 0, 0, 1, sequence=1, samples=1, payload_bytes=4 * ELEMENTS)
            ) + bytes(4 * ELEMENTS)

            async def read_into(self, buffer: memoryview) -> None:
                await rig.clock.sleep(0.25)
                buffer[:] = self.left[: len(buffer)]
                self.left = self.left[len(buffer) :]

        reply = await rig.service.exchange(Slow())
        assert decode_header(bytes(reply.parts[0])).receive_microseconds == 250_000

    run(story())


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"codec": 200}, "unknown codec id 200"),
        ({"lossless": 200}, "unknown lossless stage 200"),
        ({"reply_codec": 8}, "top-k cannot carry parameters"),
        ({"reply_lossless": 99}, "unknown lossless stage 99"),
        ({"payload_bytes": 4 * ELEMENTS - 1, "buffers_bytes": 1}, "buffers are 8 bytes or none"),
        ({"payload_bytes": 4 * ELEMENTS + 1}, "at most 1200 bytes, got 1201"),
        ({"payload_bytes": 1}, "1199 bytes of body"),
        ({"counters_bytes": 3}, "counters are 0 bytes or none"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused_and_changes_nothing(
    fields: dict[str, Any], problem: str
) -> None:
    async def story() -> None:
        rig = await Rig(assignment("asp")).start()
        body = bytes(4 * ELEMENTS) + bytes(fields.get("counters_bytes", 0))
        if fields.get("payload_bytes") == 4 * ELEMENTS + 1:
            body += b"\0"
        with pytest.raises(RefusedError, match=problem.replace("1199", "")):
            await rig.send(
                Kind.EXCHANGE, 0, body, sequence=1, **{"payload_bytes": 4 * ELEMENTS, **fields}
            )
        (report,) = rig.service.report().shards
        assert (report.version, report.samples_seen) == (0, 0)

    run(story())


@pytest.mark.parametrize("codec", ["q4", "sign", "top-k", "adacomp", "power-sgd"])
def test_a_malformed_payload_changes_nothing_and_the_push_can_be_sent_again(codec: str) -> None:
    async def story() -> None:
        rig = await Rig(assignment("asp")).start()
        with pytest.raises(RefusedError):
            await rig.send(Kind.EXCHANGE, 0, b"\xff" * 85, sequence=1, codec=codec_id(codec))
        (report,) = rig.service.report().shards
        assert (report.version, report.samples_seen) == (0, 0)
        assert (await rig.push(0))[0].status is Status.APPLIED

    run(story())
