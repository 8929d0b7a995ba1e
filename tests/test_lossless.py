"""Lossless stages: round trips, bounds, and what damaged payloads do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psedge.compression.lossless import (
    STAGES,
    Lossless,
    available,
    best_entropy_coder,
    stage_named,
    stage_of_frame,
)
from psedge.protocol.errors import FrameError

LOSSY_STAGES = [name for name in available() if name != "none"]


def symbols(count: int) -> bytes:
    """Nibbles as ecsq makes them: mostly zeros."""
    values = np.random.default_rng(7).normal(0, 0.6, 2 * count)
    codes = (np.clip(np.rint(values), -7, 7) + 8).astype(np.uint8)
    return (codes[:count] | codes[count:] << 4).tobytes()


def test_every_stage_is_here() -> None:
    """The test tools bring lz4 and zstandard, so that nothing below is left out."""
    assert available() == tuple(stage.name for stage in STAGES)


@pytest.mark.parametrize("name", available())
@given(payload=st.binary(max_size=2000))
@settings(max_examples=50, deadline=None)
def test_a_round_trip_gives_the_same_bytes(name: str, payload: bytes) -> None:
    stage = stage_named(name)
    compressed = memoryview(bytes(stage.compress(payload)))
    assert bytes(stage.decompress(compressed, len(payload))) == payload


@pytest.mark.parametrize("name", available())
def test_more_than_the_limit_is_refused(name: str) -> None:
    stage = stage_named(name)
    compressed = memoryview(bytes(stage.compress(bytes(1_000_000))))
    with pytest.raises(FrameError, match="at most 999999"):
        stage.decompress(compressed, 999_999)


@pytest.mark.parametrize("name", LOSSY_STAGES)
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_payload_is_an_error_or_some_bytes(name: str, data: st.DataObject) -> None:
    stage = stage_named(name)
    damaged = bytearray(stage.compress(symbols(500)))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        whole = stage.decompress(memoryview(damaged), 600)
    except FrameError:
        return
    assert len(whole) <= 600


@pytest.mark.parametrize("name", ["zstd", "deflate"])
def test_bytes_behind_the_end_are_refused(name: str) -> None:
    compressed = bytes(stage_named(name).compress(symbols(500)))
    with pytest.raises(FrameError):
        stage_named(name).decompress(memoryview(compressed + b"more"), 600)


@pytest.mark.parametrize("name", ["zstd", "deflate"])
def test_entropy_coders_come_close_to_the_entropy_of_sparse_symbols(name: str) -> None:
    payload = symbols(50_000)
    counts = np.unique(np.frombuffer(payload, np.uint8), return_counts=True)[1]
    shares = counts / counts.sum()
    entropy_bytes = -(shares * np.log2(shares)).sum() / 8 * len(payload)
    assert len(stage_named(name).compress(payload)) < 1.15 * entropy_bytes


def test_zstd_is_preferred_where_both_ends_have_it() -> None:
    assert best_entropy_coder(("none", "lz4", "zstd", "deflate")) == "zstd"
    assert best_entropy_coder(("none", "deflate")) == "deflate"


def test_a_stage_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from psedge.compression import lossless

    zstd: type[Lossless] = lossless.Zstd
    monkeypatch.setitem(lossless._INSTALLED, zstd, False)
    assert "zstd" not in available()
    with pytest.raises(FrameError, match=r'pip install "psedge\[zstd\]"'):
        stage_of_frame(zstd.id)
    with pytest.raises(KeyError):
        stage_named("zstd")


def test_an_unknown_stage_of_a_frame_is_refused() -> None:
    with pytest.raises(FrameError, match="unknown lossless stage 9"):
        stage_of_frame(9)
