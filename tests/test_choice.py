"""Which codec a link calls for, when a choice is changed, and what people are told of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.compression.choice import (
    CANDIDATES,
    HYSTERESIS,
    Choice,
    Link,
    choose,
    seconds,
)
from psedge.compression.codec_speed import Speed, measure
from psedge.compression.lossless import available, stage_named
from psedge.compression.table import codec_named
from psedge.protocol.coding import CodingSettings

RESNET_32 = 461_872
#: Per element: bytes, then nanoseconds of encoding and decoding together.
COSTS = {
    "identity": (4.0, 0.3),
    "float16": (2.0, 0.8),
    "q8": (1.008, 1.0),
    "q4": (0.508, 1.0),
    "ecsq": (0.2, 8.0),
}


def speeds(slowness: float = 1.0) -> list[Speed]:
    return [
        Speed(name, "zstd" if name == "ecsq" else "none", size, *(slowness * work * 5e-10,) * 2)
        for name, (size, work) in COSTS.items()
    ]


def link(megabits: float, way: str = "up") -> Link:
    return Link(8e-6 / megabits, RESNET_32, 2_282, way)


def codec(megabits: float, step_seconds: float = 0.1, slowness: float = 1.0) -> str:
    return choose(speeds(slowness), link(megabits), step_seconds, None).codec


def test_a_fast_link_needs_no_compression() -> None:
    assert codec(10_000) == "identity"
    assert codec(941, step_seconds=1.3) == "identity"


def test_a_slow_link_takes_the_fewest_bits() -> None:
    assert codec(20) == "ecsq"


def test_in_between_the_least_lossy_one_near_the_best_is_taken() -> None:
    assert codec(200, step_seconds=0.3) == "q4"
    assert codec(941, step_seconds=0.2) == "q8"


def test_a_slow_processor_is_not_asked_for_more_than_it_saves() -> None:
    assert codec(94) == "ecsq"
    assert codec(94, slowness=20) == "q4"


def test_what_a_step_hides_may_be_spent_on_accuracy() -> None:
    order = [CANDIDATES.index(codec(94, step)) for step in (0.01, 0.5, 1.0, 3.0, 20.0)]
    assert order == sorted(order, reverse=True)
    assert order[-1] == 0


@given(megabits=st.floats(0.1, 1e5), step_seconds=st.floats(0, 100))
def test_a_faster_link_never_takes_a_lossier_codec(megabits: float, step_seconds: float) -> None:
    slower = CANDIDATES.index(codec(megabits, step_seconds))
    faster = CANDIDATES.index(codec(2 * megabits, step_seconds))
    assert faster <= slower


@given(
    megabits=st.floats(0.1, 1e5),
    step_seconds=st.floats(0, 100),
    noise=st.floats(1 / 1.1, 1.1),
)
def test_a_choice_stays_while_the_link_scatters(
    megabits: float, step_seconds: float, noise: float
) -> None:
    first = choose(speeds(), link(megabits), step_seconds, None)
    again = choose(speeds(), link(megabits * noise), step_seconds, first)
    assert (again.codec, again.lossless) == (first.codec, first.lossless)


@given(megabits=st.floats(0.1, 1e4), step_seconds=st.floats(0, 10), now=st.sampled_from(CANDIDATES))
def test_no_choice_is_kept_that_costs_much_more_than_the_best(
    megabits: float, step_seconds: float, now: str
) -> None:
    of = {speed.codec: speed for speed in speeds()}
    current = Choice(now, of[now].lossless)
    taken = choose(speeds(), link(megabits), step_seconds, current)
    times = {name: seconds(speed, link(megabits)) for name, speed in of.items()}
    best = min(times.values())
    limit = max(1.1 * best, best + 0.02 * step_seconds, best + 0.001)
    assert times[taken.codec] <= HYSTERESIS * limit


def test_a_link_that_became_fast_or_slow_is_answered() -> None:
    slow = choose(speeds(), link(20), 0.1, None)
    assert choose(speeds(), link(10_000), 0.1, slow).codec == "identity"
    fast = choose(speeds(), link(10_000), 0.1, None)
    assert choose(speeds(), link(20), 0.1, fast).codec == "ecsq"


def test_a_lossless_stage_is_used_only_where_the_link_is_slower_than_it_saves() -> None:
    # A tenth of 0.508 bytes saved in 1 ns: worth it below 50 MB/s.
    q4 = [Speed("q4", "none", 0.508, 1e-9, 1e-9), Speed("q4", "zstd", 0.457, 1.5e-9, 1.5e-9)]
    assert choose(q4, link(4_000), 0.1, None).lossless == "none"
    assert choose(q4, link(40), 0.1, None).name == "q4+zstd"


@pytest.mark.parametrize(
    ("megabits", "reason"),
    [
        (20, "q4: 20 Mb/s up, 0.74 s as float32, 0.10 s as q4"),
        (1_000, "q4: 1 Gb/s up, 15 ms as float32, 2.4 ms as q4"),
    ],
)
def test_the_reason_is_in_words(megabits: float, reason: str) -> None:
    two = [speed for speed in speeds() if speed.codec in ("identity", "q4")]
    assert choose(two, link(megabits), 0.01, None).reason == reason


def test_a_reason_for_nothing_is_short() -> None:
    free = choose(speeds(), Link(0.0, RESNET_32, 0, "down"), 0.1, None)
    assert free.reason == "identity: over 20 Gb/s down, 0.14 ms as float32"


def ticking() -> Callable[[], float]:
    """A clock that is a millisecond later each time it is read."""
    times = iter(range(10**6))
    return lambda: 0.001 * next(times)


@pytest.mark.parametrize("elements", [1, 255, 257, 5_000])
def test_every_candidate_is_measured_with_every_stage(elements: int) -> None:
    gradient = np.random.default_rng(0).standard_normal(elements).astype(np.float32)
    codecs = [codec_named(name, CodingSettings()) for name in CANDIDATES]
    stages = [stage_named(name) for name in available()]
    found = measure(codecs, stages, gradient, ticking())
    assert [(s.codec, s.lossless) for s in found] == [
        (name, stage) for name in CANDIDATES for stage in available()
    ]
    for speed in found:
        # One tick for the codec; a stage adds one, or more where it sees only a part.
        ticks = (speed.encode_seconds * elements, speed.decode_seconds * elements)
        assert min(ticks) >= (0.0019 if speed.lossless != "none" else 0.0009)
        assert speed.bytes > 0
    plain = {s.codec: s.bytes for s in found if s.lossless == "none"}
    assert plain["identity"] == 4.0
    if elements == 5_000:
        assert plain["q8"] == pytest.approx(1, rel=0.05)
        assert plain["q4"] == pytest.approx(0.5, rel=0.05)
        packed = next(s for s in found if (s.codec, s.lossless) == ("ecsq", "deflate"))
        assert packed.bytes < 0.85 * plain["ecsq"]
