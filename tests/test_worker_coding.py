"""A worker's choice of codecs: what is fixed, what is measured, when it changes."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pytest
from tiny_cluster import run
from worker_bench import Bench, gradient

from psedge.compression.codec_speed import measure
from psedge.compression.lossless import available, best_entropy_coder
from psedge.compression.table import PUSH_CODECS
from psedge.protocol.coding import CodingSettings
from psedge.worker.coding import JUDGE_EVERY, SOON, WorkerCoding

ELEMENTS = 200_000
FAST, SLOW = 0.0, 8e-6 / 20
ENTROPY = best_entropy_coder(available())


def coding(stages: Sequence[str] = available(), **settings: object) -> WorkerCoding:
    settings = {"push": "auto", "pull": "auto", "lossless": "auto", **settings}
    # As on a machine for which computing takes no time.
    costs = functools.partial(measure, now=lambda: 0.0)
    return WorkerCoding(CodingSettings(**settings), stages, ELEMENTS, 100, costs)  # type: ignore[arg-type]


def judged(chosen: WorkerCoding, up: float, down: float, push: int = 1) -> str:
    values = np.random.default_rng(0).standard_normal(ELEMENTS + 100).astype(np.float32)
    return chosen.judge(push, up, down, 0.05, values)


def test_a_fast_link_keeps_float32() -> None:
    chosen = coding()
    assert chosen.description == ""
    judged(chosen, FAST, FAST)
    assert chosen.description == "identity / identity"
    assert "over 20 Gb/s up" in chosen.reason
    assert "over 20 Gb/s down" in chosen.reason


def test_a_slow_link_is_compressed_in_the_direction_that_is_slow() -> None:
    chosen = coding()
    said = judged(chosen, SLOW, FAST)
    assert chosen.push.codec in ("q4", "ecsq")
    assert chosen.pull.codec == "identity"
    assert said == f"now {chosen.description}: {chosen.reason}"
    assert "20 Mb/s up, 0.32 s as float32" in chosen.reason


def test_a_change_of_the_link_is_answered_and_told_once() -> None:
    chosen = coding()
    judged(chosen, FAST, FAST)
    assert judged(chosen, FAST, FAST) == ""
    assert judged(chosen, SLOW, SLOW) != ""
    assert judged(chosen, SLOW, SLOW) == ""
    assert judged(chosen, FAST, FAST) == ""
    assert "identity / identity" in judged(chosen, FAST, FAST)


def test_later_a_change_must_be_found_twice_in_a_row() -> None:
    chosen = coding()
    for _ in range(4):
        judged(chosen, FAST, FAST)
    for _ in range(3):
        assert judged(chosen, SLOW, FAST) == ""
        assert judged(chosen, FAST, FAST) == ""
    assert judged(chosen, SLOW, FAST) == ""
    assert judged(chosen, SLOW, FAST) != ""
    assert chosen.push.codec in ("q4", "ecsq")


def test_what_the_config_fixes_is_never_looked_at() -> None:
    fixed = coding(push="q4", pull="q8", lossless="none")
    assert not any(fixed.due(push, SLOW, SLOW) for push in range(1, 1000))
    assert fixed.description == "q4 / q8"
    assert fixed.reason == ""


def test_the_choice_is_looked_at_at_first_and_now_and_then() -> None:
    chosen = coding()
    assert dues(chosen, 1, 151, FAST) == [1, 3, 10, *range(JUDGE_EVERY, 151, JUDGE_EVERY)]


def dues(chosen: WorkerCoding, start: int, stop: int, rate: float) -> list[int]:
    """The pushes at which the choice was looked at, on a link of that rate both ways."""
    found = []
    for push in range(start, stop):
        if chosen.due(push, rate, rate):
            judged(chosen, rate, rate, push)
            found.append(push)
    return found


def test_a_link_that_has_changed_is_looked_at_soon_and_confirmed_soon() -> None:
    chosen = coding()
    dues(chosen, 1, JUDGE_EVERY + 1, FAST)
    at = JUDGE_EVERY + SOON
    assert dues(chosen, JUDGE_EVERY + 1, 2 * JUDGE_EVERY, SLOW) == [at, at + SOON]
    assert chosen.push.codec in ("q4", "ecsq")
    assert chosen.pull.codec in ("q4", "ecsq")


def test_a_link_that_scatters_is_not_looked_at_out_of_turn() -> None:
    chosen = coding()
    dues(chosen, 1, JUDGE_EVERY + 1, SLOW)
    assert dues(chosen, JUDGE_EVERY + 1, 2 * JUDGE_EVERY, 1.5 * SLOW) == []
    unmeasured = coding()
    dues(unmeasured, 1, JUDGE_EVERY + 1, FAST)
    assert dues(unmeasured, JUDGE_EVERY + 1, 2 * JUDGE_EVERY, 1e-9) == []


def test_the_first_choice_is_told_unless_it_is_float32() -> None:
    assert judged(coding(), SLOW, SLOW).startswith("now ")
    assert judged(coding(), FAST, FAST) == ""


def test_a_shared_chain_leaves_pulls_to_the_servers() -> None:
    chosen = coding(pull="q8", chain="shared")
    judged(chosen, SLOW, SLOW)
    assert chosen.pull.codec == "q8"
    assert chosen.push.codec in ("q4", "ecsq")
    assert not coding(push="q4", pull="q8", lossless="none", chain="shared").due(1, SLOW, SLOW)


@pytest.mark.parametrize("lossless", ["auto", "zstd", "deflate"])
@pytest.mark.parametrize("stages", [available(), ("none", "deflate"), ()])
def test_symbols_of_ecsq_always_meet_an_entropy_coder(
    stages: tuple[str, ...], lossless: str
) -> None:
    chosen = coding(stages, push="ecsq", lossless=lossless)
    expected = best_entropy_coder(stages) if lossless == "auto" else lossless
    assert chosen.push.lossless == (expected if expected in stages else "deflate")


def test_a_stage_that_is_not_everywhere_is_replaced_and_said() -> None:
    chosen = coding(("none", "deflate"), push="q4", lossless="zstd")
    assert chosen.push.name == "q4+deflate"
    assert chosen.reason == "zstd is not installed on all machines: deflate instead"
    assert coding(("none",), push="q4", lossless="lz4").push.name == "q4"


def test_a_fixed_codec_gets_its_lossless_stage_by_measurement() -> None:
    chosen = coding(push="q4", pull="q4")
    judged(chosen, FAST, FAST)
    assert chosen.push.name == "q4"
    judged(chosen, SLOW, SLOW)
    assert chosen.push.name == f"q4+{ENTROPY}"


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    chosen = coding()
    values = np.full(ELEMENTS + 100, np.nan, np.float32)
    assert chosen.judge(1, SLOW, SLOW, 0.05, values) == ""
    assert chosen.push.codec == "identity"


def test_a_worker_on_a_slow_link_changes_while_it_trains() -> None:
    auto = CodingSettings(push="auto", pull="auto", lossless="auto")
    bench = Bench(3_000, coding=auto)

    async def work() -> None:
        session = await bench.session()
        client = session.client
        link = client._links[0]
        total = np.zeros_like(bench.start)
        for step in range(120):
            if step >= 20:
                for meter in (link.up, link.down, link.up, link.down):
                    meter.add(100_000, 100_000 * SLOW * 10)
            values = gradient(bench, step)
            total += values
            await client.exchange(values, 8)
            session.take()
        assert client.coding.push.codec in ("q4", "ecsq")
        assert client.coding.pull.codec in ("q4", "ecsq")
        applied = (bench.start - bench.cluster.parameters()) / np.float32(0.5)
        assert client.residual is not None
        np.testing.assert_allclose(applied + client.residual, total, atol=1e-4)
        await session.leave()
        last = bench.cluster.heartbeats[-1]
        assert last.coding == client.coding.description
        assert "2 Mb/s" in last.coding_reason

    run(work())
    assert len(bench.notes) == 1
    assert bench.notes[0].startswith("now ")


@pytest.mark.parametrize("push", PUSH_CODECS)
def test_every_codec_can_be_fixed_and_judged(push: str) -> None:
    chosen = coding(push=push, pull="q8", momentum_correction=0.9, warmup_pushes=10)
    for link in (FAST, SLOW, SLOW):
        judged(chosen, link, link)
    assert (chosen.push.codec, chosen.pull.codec) == (push, "q8")
    assert chosen.push_codec.name == push
    assert chosen.push_stage().name == chosen.push.lossless
