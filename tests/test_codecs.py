"""Codecs: exact bytes, error bounds, and that what a payload drops is in the residual."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from codec_rig import (
    CODES,
    EVERY,
    KERNEL,
    LOSSY,
    QUANTIZER,
    decode,
    encode,
    gradient,
    slice_of,
)
from golden import CODECS_DECODED, FOLDER, GOLDEN_CODECS, check_golden, decoded_digest
from golden import golden_payload as golden_payload_of

from psedge.compression.codec import EncoderState
from psedge.compression.codes import LEVELS, buckets_of, payload_bytes
from psedge.compression.ecsq import Ecsq
from psedge.compression.identity import Identity
from psedge.compression.q4 import Q4
from psedge.compression.q8 import Q8
from psedge.compression.table import CODECS, PUSH_CODECS, codec_named, codec_of_frame
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import FrameError
from psedge.protocol.layout import Slice, TensorSlice


@pytest.mark.parametrize("name", sorted(set(GOLDEN_CODECS) - {"power-sgd"}))
def test_payload_bytes_are_the_golden_ones(name):
    check_golden(f"codec-{name}.bin", golden_payload_of(GOLDEN_CODECS[name]))


@pytest.mark.parametrize("name", sorted(GOLDEN_CODECS))
def test_golden_payloads_decode_to_the_golden_values(name):
    payload = (FOLDER / f"codec-{name}.bin").read_bytes()
    expected = json.loads((FOLDER / CODECS_DECODED).read_text())
    assert decoded_digest(GOLDEN_CODECS[name], payload) == expected[name]


@EVERY
def test_table_finds_a_codec_by_name_and_by_frame(codec):
    again = codec_of_frame(codec.id, codec.parameters())
    assert again.name == codec.name
    assert again.parameters() == codec.parameters()
    assert len(codec.parameters()) == 8


def test_table_refuses_what_it_does_not_know():
    with pytest.raises(FrameError, match="unknown codec id 250"):
        codec_of_frame(250, bytes(8))
    with pytest.raises(FrameError, match="does not know parameters"):
        codec_of_frame(0, b"\x01" + bytes(7))
    with pytest.raises(KeyError):
        codec_named("gzip")


def test_codec_ids_never_change():
    names = ["identity", "float16", "bfloat16", "q8", "q4", "ternary", "sign", "ecsq"]
    names += ["top-k", "adacomp", "power-sgd"]
    assert [codec.name for codec in CODECS] == names
    assert [codec.id for codec in CODECS] == list(range(11))


def test_settings_choose_the_rounding():
    stochastic = CodingSettings(rounding="stochastic")
    assert [codec_named(name, stochastic).stochastic for name in ("q8", "q4", "ecsq")] == [True] * 3
    assert not codec_named("q4").stochastic


@KERNEL
@pytest.mark.parametrize("elements", [0, 1, 255, 256, 257, 1287, 40_000])
def test_payload_has_exactly_the_promised_size(codec, elements):
    payload, finite = encode(codec, gradient(1, elements))
    assert finite
    assert len(payload) == codec.payload_limit(slice_of(elements))
    assert codec.check(payload, slice_of(elements), 1.0)


@KERNEL
def test_payload_of_wrong_size_is_a_frame_error(codec):
    out, piece = np.zeros(300, np.float32), slice_of(300)
    size = codec.payload_limit(piece)
    for wrong in (0, 1, size - 1, size + 1, 2 * size):
        payload = np.zeros(wrong, np.uint8)
        with pytest.raises(FrameError):
            codec.check(payload, piece, 1.0)
        with pytest.raises(FrameError):
            codec.decode(payload, piece, out)
        with pytest.raises(FrameError):
            codec.decode_accumulate(payload, piece, 1.0, out)
    assert not out.any()


def with_scale(codec, bits):
    payload = encode(codec, gradient(6, 1024))[0].copy()
    payload[4:6].view(np.uint16)[0] = bits
    return payload


@QUANTIZER
def test_check_looks_at_every_scale(codec):
    piece = slice_of(1024)
    two = 0x4000
    assert codec.check(with_scale(codec, two), piece, 2.0 * LEVELS[codec.id])
    assert not codec.check(with_scale(codec, two), piece, 1.999 * LEVELS[codec.id])
    for bits in (0x7F80, 0x7FC0, 0x7FFF):
        assert not codec.check(with_scale(codec, bits), piece, np.inf)
    for bits in (0x8000, 0xBF80, 0xFF80, 0xFFFF):
        with pytest.raises(FrameError, match="negative scale"):
            codec.check(with_scale(codec, bits), piece, np.inf)
    assert codec.check(with_scale(codec, 0), piece, 1.0)


@pytest.mark.parametrize("name", ["identity", "float16", "bfloat16"])
def test_check_finds_what_is_too_large_or_no_number(name):
    codec, piece = codec_named(name), slice_of(5)
    dtype = {"identity": np.float32, "float16": np.float16}.get(name)

    def payload(values):
        if dtype is not None:
            return np.array(values, dtype).view(np.uint8)
        return (np.array(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)

    for sign in (1, -1):
        fits = payload([0, 1, -1, sign * 96, 0.5])
        assert codec.check(fits, piece, 96.0)
        assert not codec.check(fits, piece, 95.0)
        for bad in (np.inf, np.nan):
            assert not codec.check(payload([0, -2, sign * bad, 1, 2]), piece, 1e30)
            assert not codec.check(payload([0, -2, sign * bad, 1, 2]), piece, np.inf)
    assert codec.check(np.zeros(0, np.uint8), slice_of(0), 1.0)


@KERNEL
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_decode_accumulate_adds_the_weighted_decoded_values(codec, weight):
    values = gradient(7, 1001)
    payload = encode(codec, values)[0]
    out = np.ones(1001, np.float32)
    codec.decode_accumulate(payload, slice_of(1001), weight, out)
    expected = np.float32(1) + decode(codec, payload, 1001) * np.float32(weight)
    np.testing.assert_array_equal(out, expected)


def test_switching_codecs_for_a_thousand_steps_loses_nothing():
    """Decoded values and residual are all that was sent, whatever codecs took turns."""
    elements = 1287
    piece = Slice(256, elements, (TensorSlice(0, 800, 40), TensorSlice(800, elements, 487)))
    codecs = [codec_named(name) for name in PUSH_CODECS] + [Q4("stochastic"), Q8("stochastic")]
    states = [EncoderState() for _ in codecs]
    residual = np.zeros(elements, np.float32)
    sent, received = np.zeros(elements), np.zeros(elements)
    draw = np.random.default_rng(8)
    for step in range(1000):
        which = int(draw.integers(len(codecs)))
        codec, state = codecs[which], states[which]
        state.seed = step
        values = gradient(step, elements, 1.0)
        encoded = codec.encode(values, residual, piece, state)
        state.payloads += 1
        assert encoded.finite
        payload = np.frombuffer(b"".join(encoded.parts), np.uint8)
        assert codec.check(payload, piece, 1e3)
        out = np.zeros(elements, np.float32)
        codec.decode_accumulate(payload, piece, 1.0, out)
        sent += values
        received += out
        if step % 10 == 0:
            # A refused push gives its mass back.
            residual += out
            received -= out
    np.testing.assert_allclose(received + residual, sent, atol=1000 * 4 * 2**-24)


@LOSSY
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 300, 1023, 1026])
def test_a_bucket_that_is_not_finite_is_left_out(codec, poison, place):
    values = np.full(1030, 0.25, np.float32)
    values[::3] = -0.125
    clean, kept = values.copy(), np.full(1030, 1e-3, np.float32)
    encode(codec, clean, kept)
    values[place] = poison
    residual = np.full(1030, 1e-3, np.float32)
    payload, finite = encode(codec, values, residual)
    assert not finite
    bucket = slice(place // 256 * 256, min(place // 256 * 256 + 256, 1030))
    out = decode(codec, payload, 1030)
    assert not out[bucket].any()
    assert (residual[bucket] == np.float32(1e-3)).all()
    others = np.ones(1030, bool)
    others[bucket] = False
    np.testing.assert_array_equal(residual[others], kept[others])
    assert np.isfinite(residual).all()
    assert codec.check(payload, slice_of(1030), 1e3)


@LOSSY
def test_a_sum_that_overflows_is_not_finite(codec):
    values = np.full(256, 3e38, np.float32)
    residual = values.copy()
    payload, finite = encode(codec, values, residual)
    assert not finite
    np.testing.assert_array_equal(residual, values)
    assert not decode(codec, payload, 256).any()


@QUANTIZER
def test_a_bucket_of_tiny_values_stays_in_the_residual(codec):
    values = np.full(512, 1e-40, np.float32)
    values[256:] = 2.0**-99
    residual = np.zeros(512, np.float32)
    payload, finite = encode(codec, values, residual)
    assert finite
    np.testing.assert_array_equal(residual[:256], values[:256])
    assert not decode(codec, payload, 512)[:256].any()
    total = decode(codec, payload, 512)[256:] + residual[256:]
    np.testing.assert_allclose(total, values[256:], rtol=1e-6)


@pytest.mark.parametrize("stochastic", [False, True])
@QUANTIZER
def test_nothing_depends_on_where_the_vector_is_cut(codec, stochastic):
    if stochastic and hasattr(codec, "of_settings"):
        codec = type(codec).of_settings(CodingSettings(rounding="stochastic"))
    values, residual = gradient(9, 3000), gradient(10, 3000)
    whole, rest = values.copy(), residual.copy()
    payload, _ = encode(codec, whole, rest, seed=3)
    parts = []
    for start, stop in itertools.pairwise([0, 512, 1792, 3000]):
        mine = residual[start:stop]
        parts.append(
            (encode(codec, values[start:stop], mine, seed=3, offset=start)[0], stop - start)
        )
    scales = b"".join(part[: 2 * buckets_of(length)].tobytes() for part, length in parts)
    codes = b"".join(part[2 * buckets_of(length) :].tobytes() for part, length in parts)
    assert scales + codes == payload.tobytes()
    np.testing.assert_array_equal(residual, rest)


def test_deltas_keep_sender_and_receiver_bit_for_bit_alike():
    elements = 1100
    draw = np.random.default_rng(11)
    target = draw.standard_normal(elements).astype(np.float32)
    published = target.copy()
    published[::7] = -0.0
    received, piece = published.copy(), slice_of(elements)
    for step in range(60):
        codec = CODES[step % len(CODES)] if step < 50 else CODES[3]
        if step < 50:
            target += gradient(step, elements, 0.1)
        encoded = codec.encode_delta(target, published, piece, EncoderState(step))
        payload = np.frombuffer(b"".join(encoded.parts), np.uint8)
        codec.decode_accumulate(payload, piece, 1.0, received)
        assert encoded.finite
        assert received.tobytes() == published.tobytes()
    np.testing.assert_allclose(published, target, atol=1e-6)


@KERNEL
def test_a_delta_that_is_not_finite_changes_no_value(codec):
    target = np.ones(600, np.float32)
    target[3] = np.nan
    published = np.zeros(600, np.float32)
    published[1] = -0.0
    received = published.copy()
    encoded = codec.encode_delta(target, published, slice_of(600), EncoderState())
    payload = np.frombuffer(b"".join(encoded.parts), np.uint8)
    codec.decode_accumulate(payload, slice_of(600), 1.0, received)
    assert not encoded.finite
    assert not published[:256].any()
    assert published[256:].all()
    assert received.tobytes() == published.tobytes()


@KERNEL
def test_any_input_array_is_taken_and_none_is_changed(codec):
    values = gradient(12, 700)
    expected = encode(codec, values)[0]
    strided = np.repeat(values, 2)[::2]
    shifted = np.frombuffer(b"\0" + values.tobytes(), np.uint8)[1:].view(np.float32)
    values.flags.writeable = False
    for kind in (values, strided, shifted):
        before = kind.tobytes()
        np.testing.assert_array_equal(encode(codec, kind)[0], expected)
        assert kind.tobytes() == before


@KERNEL
def test_outputs_that_do_not_fit_are_refused(codec):
    payload, piece = encode(codec, gradient(13, 300))[0], slice_of(300)
    fixed = np.zeros(300, np.float32)
    fixed.flags.writeable = False
    for out in (np.zeros(600, np.float32)[::2], np.zeros(300, np.float64), fixed):
        with pytest.raises((TypeError, ValueError)):
            codec.decode(payload, piece, out)
        with pytest.raises((TypeError, ValueError)):
            codec.decode_accumulate(payload, piece, 1.0, out)


def test_identity_shares_memory_and_sends_a_residual_another_codec_left():
    values, residual = np.array([1.0, 2.0], np.float32), np.array([0.5, 0.0], np.float32)
    shared = Identity().encode(values, np.zeros(2, np.float32), slice_of(2), EncoderState())
    assert np.shares_memory(np.frombuffer(shared.parts[0], np.uint8), values)
    payload, finite = encode(Identity(), values, residual)
    assert finite
    np.testing.assert_array_equal(payload.view("<f4"), [1.5, 2.0])
    assert not residual.any()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_identity_carries_what_is_not_finite_and_keeps_it_out_of_the_residual(poison):
    values, residual = np.ones(600, np.float32), np.full(600, 0.5, np.float32)
    values[300] = poison
    payload, finite = encode(Identity(), values, residual)
    assert not finite
    assert not np.isfinite(payload.view("<f4")).all()
    assert not residual[:256].any()
    assert (residual[256:512] == 0.5).all()
    assert not encode(Identity(), values)[1]


def test_identity_takes_large_finite_values():
    values = np.full(300, 3e38, np.float32)
    payload, finite = encode(Identity(), values)
    assert finite
    assert Identity().check(payload, slice_of(300), np.inf)
    assert not Identity().check(payload, slice_of(300), 1e38)


def test_a_payload_of_known_size_bounds_what_a_receiver_needs():
    assert payload_bytes(Q4.id, 461_872) == 1805 * 130
    assert Ecsq(step=1.0).payload_limit(slice_of(257)) == 2 * 130
