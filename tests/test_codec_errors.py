"""How far decoded values are from what was encoded, and how rounding behaves."""

from __future__ import annotations

import numpy as np
import pytest
from codec_rig import KERNEL, decode, encode, gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from psedge.compression.ecsq import Ecsq
from psedge.compression.q4 import Q4
from psedge.compression.q8 import Q8
from psedge.compression.table import codec_named

BOUNDS = {
    # A level is at most 2**-7 wider than 1/levels of the largest magnitude, and half of it is lost.
    "q8": lambda bucket: np.abs(bucket).max() / 127 * (1 + 2**-7) / 2,
    "q4": lambda bucket: np.abs(bucket).max() / 7 * (1 + 2**-7) / 2,
    "ternary": lambda bucket: np.abs(bucket).max(),
    "sign": lambda bucket: np.abs(bucket).max() + np.abs(bucket).mean() * (1 + 2**-8),
    "ecsq": lambda bucket: np.abs(bucket).max(),
    "float16": lambda bucket: np.abs(bucket).max() * 2**-11 + 2**-25,
    "bfloat16": lambda bucket: np.abs(bucket).max() * 2**-8,
    "identity": lambda bucket: 0.0,
}

finite_floats = st.floats(-(2.0**15), 2.0**15, width=32, allow_subnormal=True)


@KERNEL
@given(values=npst.arrays(np.float32, st.integers(1, 600), elements=finite_floats))
@settings(max_examples=50)
def test_error_is_within_the_codecs_bound(codec, values):
    out = decode(codec, encode(codec, values)[0], len(values))
    for start in range(0, len(values), 256):
        bucket = values[start : start + 256]
        error = np.abs(out[start : start + 256].astype(np.float64) - bucket).max()
        assert error <= float(BOUNDS[codec.name](bucket.astype(np.float64))) * (1 + 1e-6) + 2**-100


@pytest.mark.parametrize(
    ("name", "limit"),
    [("q8", 1e-4), ("q4", 0.02), ("ecsq", 0.45), ("ternary", 0.25), ("sign", 0.4)],
)
def test_mean_square_error_on_normal_values(name, limit):
    values = np.random.default_rng(3).standard_normal(100_000).astype(np.float32)
    codec = codec_named(name)
    error = decode(codec, encode(codec, values)[0], len(values)) - values
    assert float(np.mean(error**2)) < limit


@pytest.mark.parametrize("codec", [Q8("stochastic"), Q4("stochastic"), Ecsq("stochastic", 1.0)])
def test_stochastic_rounding_keeps_the_mean(codec):
    values = np.random.default_rng(4).uniform(-1, 1, 512).astype(np.float32)
    total = np.zeros(512)
    for seed in range(400):
        total += decode(codec, encode(codec, values, seed=seed)[0], 512)
    level = 1.0 / 127 if codec.name == "q8" else 0.6
    # 512 tests at once: five standard deviations, and a bias of 1/512 of a level.
    assert np.abs(total / 400 - values).max() < level * (5 * 0.5 / 20 + 1 / 512)


def test_stochastic_rounding_depends_on_the_seed_and_the_place_only():
    codec, values = Q4("stochastic"), gradient(5, 2048)
    first = encode(codec, values, seed=1)[0]
    np.testing.assert_array_equal(first, encode(codec, values, seed=1)[0])
    assert (first != encode(codec, values, seed=2)[0]).any()
    assert (first != encode(codec, values, seed=1, offset=256)[0]).any()


vectors = npst.arrays(
    np.float32, st.integers(1, 700), elements=st.floats(-(2.0**100), 2.0**100, width=32)
)


@KERNEL
@given(values=vectors)
@settings(max_examples=50)
def test_one_encoding_with_a_residual_loses_no_more_than_a_rounding(codec, values):
    residual = np.zeros_like(values)
    payload, finite = encode(codec, values, residual)
    assert finite
    out = decode(codec, payload, len(values)).astype(np.float64)
    largest = np.maximum(np.abs(values.astype(np.float64)), np.abs(out))
    assert (np.abs(out + residual - values) <= largest * 2**-24).all()
