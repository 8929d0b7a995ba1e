"""Codecs: exact bytes, exact halves, and that what a payload drops is in the residual."""

from __future__ import annotations

import numpy as np
import pytest
from golden import CODEC_VALUES, check_golden
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from psedge.compression.codec import Codec
from psedge.compression.half_precision import from_half, to_half
from psedge.compression.table import CODECS, codec_named, codec_of_frame
from psedge.protocol.errors import FrameError

ALL = pytest.mark.parametrize("codec", [kind() for kind in CODECS], ids=lambda codec: codec.name)


def decoded(codec: Codec, payload, elements):
    out = np.full(elements, 7.0, np.float32)
    codec.decode(memoryview(payload), out)
    return out


@ALL
def test_payload_bytes_are_the_golden_ones(codec):
    check_golden(f"codec-{codec.name}.bin", bytes(codec.encode(CODEC_VALUES, None)))


@ALL
def test_table_finds_a_codec_by_name_and_by_frame(codec):
    assert codec_named(codec.name).id == codec.id
    assert codec_of_frame(codec.id, codec.parameters()).name == codec.name


def test_table_refuses_what_it_does_not_know():
    with pytest.raises(FrameError, match="unknown codec id 250"):
        codec_of_frame(250, bytes(8))
    with pytest.raises(FrameError, match="does not know parameters"):
        codec_of_frame(0, b"\x01" + bytes(7))


def test_codec_ids_and_names_are_unique():
    assert len({codec.id for codec in CODECS}) == len({codec.name for codec in CODECS}) == 2


@ALL
@pytest.mark.parametrize("elements", [0, 1, 16383, 16384, 16385, 40000])
def test_payload_has_the_promised_size_and_decodes_near(codec, elements):
    values = np.linspace(-3, 3, elements).astype(np.float32)
    payload = codec.encode(values, None)
    assert len(payload) == codec.payload_bytes(elements)
    np.testing.assert_allclose(decoded(codec, payload, elements), values, rtol=2**-11, atol=1e-7)


@ALL
def test_payload_of_wrong_size_is_a_frame_error(codec):
    out = np.zeros(3, np.float32)
    for size in (0, codec.payload_bytes(3) - 1, codec.payload_bytes(3) + 1):
        with pytest.raises(FrameError):
            codec.decode(memoryview(bytes(size)), out)
        with pytest.raises(FrameError):
            codec.decode_accumulate(memoryview(bytes(size)), 1.0, out)


@ALL
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_decode_accumulate_adds_the_weighted_decoded_values(codec, weight):
    values = np.linspace(-1, 1, 101).astype(np.float32)
    payload = codec.encode(values, None)
    out = np.ones(101, np.float32)
    codec.decode_accumulate(memoryview(payload), weight, out)
    expected = 1 + np.float32(weight) * decoded(codec, payload, 101)
    np.testing.assert_allclose(out, expected, rtol=1e-6)


finite = st.floats(-(2.0**100), 2.0**100, width=32)
vectors = npst.arrays(np.float32, st.integers(1, 40), elements=finite)


@ALL
@given(data=st.data())
def test_decoded_and_residual_together_are_all_that_was_sent(codec, data):
    length = data.draw(st.integers(1, 20))
    small = st.floats(-1e4, 1e4, width=32)
    rounds = data.draw(st.lists(npst.arrays(np.float32, length, elements=small), max_size=8))
    residual = np.zeros(length, np.float32)
    sent = np.zeros(length)
    received = np.zeros(length)
    for values in rounds:
        before = values.copy()
        payload = codec.encode(values, residual)
        np.testing.assert_array_equal(values, before)
        sent += values
        received += decoded(codec, payload, length)
    scale = 1 + max((float(np.abs(values).max()) for values in rounds), default=0.0)
    np.testing.assert_allclose(received + residual, sent, rtol=1e-5, atol=2e-6 * scale)


@ALL
@given(values=vectors)
def test_one_encoding_with_a_residual_loses_nothing_at_all(codec, values):
    residual = np.zeros_like(values)
    payload = codec.encode(values, residual)
    total = decoded(codec, payload, len(values)).astype(np.float64) + residual
    np.testing.assert_array_equal(total.astype(np.float32), values)


@ALL
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_non_finite_value_is_carried_and_never_enters_the_residual(codec, poison):
    values = np.ones(20000, np.float32)
    values[17] = poison
    residual = np.full(20000, 1e-5, np.float32)
    payload = codec.encode(values, residual)
    assert not np.isfinite(decoded(codec, payload, 20000)).all()
    assert np.isfinite(residual).all()


def test_identity_sends_a_residual_another_codec_left():
    residual = np.array([0.5, 0.0], np.float32)
    payload = codec_named("identity").encode(np.array([1.0, 2.0], np.float32), residual)
    np.testing.assert_array_equal(np.frombuffer(payload, "<f4"), [1.5, 2.0])
    assert not residual.any()


def test_every_half_expands_bit_for_bit():
    halves = np.arange(65536, dtype=np.uint16)
    out = np.empty(65536, np.float32)
    from_half(halves, out)
    assert_same_bits(out, halves.view(np.float16).astype(np.float32))
    finite_halves = halves[np.isfinite(halves.view(np.float16))]
    out = np.empty(len(finite_halves), np.float32)
    from_half(finite_halves, out)
    assert_same_bits(out, finite_halves.view(np.float16).astype(np.float32))


def test_every_half_and_every_tie_between_two_rounds_bit_for_bit():
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    near = [ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(1e9))]
    values = np.concatenate([halves, *near])
    assert_rounds_like_numpy(np.concatenate([values, -values]))


@pytest.mark.parametrize("seed", range(4))
def test_random_float32_rounds_bit_for_bit(seed):
    bits = np.random.default_rng(seed).integers(0, 2**32, 50_000, dtype=np.uint32)
    values = bits.view(np.float32)
    assert_rounds_like_numpy(values[np.abs(values) <= 65504])
    # Exponents that halves have, so that most values are not rounded to zero.
    narrowed = (bits & 0x807F_FFFF) | ((90 + (bits >> 23) % 52) << 23).astype(np.uint32)
    values = narrowed.view(np.float32)
    assert_rounds_like_numpy(values[np.abs(values) <= 65504])


def test_values_past_the_largest_half_are_clipped_and_infinities_are_not():
    values = np.array([65504, 65505, 65536, 1e30, -1e30, np.inf, -np.inf, np.nan], np.float32)
    out = np.empty(8, np.uint16)
    to_half(values, out)
    expected = [65504, 65504, 65504, 65504, -65504, np.inf, -np.inf, np.nan]
    np.testing.assert_array_equal(out.view(np.float16), np.array(expected, np.float16))


def assert_rounds_like_numpy(values):
    out = np.empty(len(values), np.uint16)
    to_half(values, out)
    with np.errstate(under="ignore"):
        np.testing.assert_array_equal(out, values.astype(np.float16).view(np.uint16))


def assert_same_bits(left, right):
    np.testing.assert_array_equal(left.view(np.uint32), right.view(np.uint32))
