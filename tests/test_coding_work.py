"""A worker counts what it encodes and decodes, by codec and stage."""

from __future__ import annotations

from collections import Counter

from tiny_cluster import run
from worker_bench import Bench, gradient

from psedge.compression.codec_speed import Speed
from psedge.compression.coding_work import CodingWork
from psedge.protocol.coding import CodingSettings


def test_pushes_and_pulls_are_counted() -> None:
    bench = Bench(200, coding=CodingSettings(push="q8", pull="q4"))

    async def work() -> None:
        client = (await bench.session()).client
        coded = sum(link.piece.coded for link in client._links)
        assert coded == 600
        # A worker that joins receives the whole model, less coarse than the differences to it.
        assert client.work.drain() == CodingWork(decoded=Counter({("bfloat16", "none"): coded}))
        for step in range(3):
            await client.exchange(gradient(bench, step), 2)
            client.take()
            client.take()
        counted = client.work.drain()
        assert counted.encoded == {("q8", "none"): 3 * coded}
        assert counted.decoded == {("q4", "none"): 3 * coded}
        assert not counted.applied
        assert client.work.drain() == CodingWork()

    run(work())


def test_the_choice_among_codecs_goes_by_the_costs_that_are_given() -> None:
    """Costs that no machine has: the one codec that is free is chosen on any link."""
    bench = Bench(3_000, coding=CodingSettings(push="auto", pull="identity", lossless="none"))
    asked = []

    def costs(codecs, stages, sample):
        asked.extend(codec.name for codec in codecs)
        return [
            Speed(codec.name, stage.name, 4.0, *((0.0, 0.0) if codec.name == "q8" else (1.0, 1.0)))
            for codec in codecs
            for stage in stages
        ]

    async def work() -> None:
        session = await bench.session(costs=costs)
        client = session.client
        for link in client._links:
            link.down.add(100_000, 0.01)
        for step in range(3):
            await client.exchange(gradient(bench, step), 2)
            client.take()
        assert client.coding.push.codec == "q8"

    run(work())
    assert asked[:2] == ["identity", "float16"]
