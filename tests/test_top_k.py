"""top-k: how many are sent and which, momentum correction and warm-up, hostile payloads."""

from __future__ import annotations

import numpy as np
import pytest
from push_codec_cases import (
    assert_conserves,
    assert_delta_moves_both_sides_alike,
    assert_leaves_out_what_is_not_finite,
    assert_survives_damage,
    decoded,
    gradient,
    payload_of,
    piece_of,
)

from psedge.compression.codec import EncoderState
from psedge.compression.top_k import TopK
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import FrameError

PIECE = piece_of()


def count_of(payload):
    return int.from_bytes(payload[:4].tobytes(), "little")


def test_the_largest_are_sent_and_the_rest_is_left():
    values = gradient(0, PIECE.coded)
    residual = np.zeros(PIECE.coded, np.float32)
    payload = payload_of(TopK(0.02).encode(values, residual, PIECE, EncoderState()))
    out = decoded(TopK(), payload, PIECE)
    sent = np.flatnonzero(out)
    assert np.abs(values[sent]).min() >= np.abs(np.delete(values, sent)).max()
    np.testing.assert_allclose(out[sent], values[sent], atol=np.abs(values).max() / 127)
    np.testing.assert_allclose(out + residual, values, atol=1e-9)


def test_nothing_is_lost():
    assert_conserves(TopK(0.01), PIECE, 100)


@pytest.mark.parametrize("density", [0.002, 0.01, 0.1])
def test_the_count_stays_near_the_wish_though_gradients_change_in_size(density):
    piece = piece_of(((40_000, 200), (20_000, 100)))
    codec, state = TopK(density), EncoderState()
    residual = np.zeros(piece.coded, np.float32)
    for step in range(40):
        values = gradient(step, piece.coded, scale=10.0 ** (step % 3 - 3))
        count = count_of(payload_of(codec.encode(values, residual, piece, state)))
        state.payloads += 1
        assert 0.7 * density <= count / piece.coded <= 1.3 * density


def test_never_more_than_twice_the_wish():
    """Where the sampled lines are all smaller than the rest."""
    elements = 60_000
    values = np.ones(elements, np.float32)
    values.reshape(-1, 16)[::3] = 0.5
    piece = piece_of(((elements, elements),))
    payload = payload_of(TopK().encode(values, None, piece, EncoderState()))
    assert count_of(payload) == 1200


def test_one_percent_of_a_vector_takes_little_more_than_two_bytes_a_value():
    piece = piece_of(((461_872, 461_872),))
    residual = np.zeros(piece.coded, np.float32)
    payload = payload_of(TopK().encode(gradient(0, piece.coded), residual, piece, EncoderState()))
    assert len(payload) < 2.5 * count_of(payload)
    assert len(payload) < 12_000


def test_momentum_correction_sends_the_velocity_and_clears_it():
    codec, state = TopK(0.01, momentum=0.9), EncoderState()
    residual = np.zeros(PIECE.coded, np.float32)
    first, second = gradient(0, PIECE.coded), gradient(1, PIECE.coded)
    out = decoded(codec, payload_of(codec.encode(first, residual, PIECE, state)), PIECE)
    sent = np.flatnonzero(out)
    assert state.velocity is not None
    assert not state.velocity[sent].any()
    before = residual.copy()
    waiting = state.velocity.copy()
    out = decoded(codec, payload_of(codec.encode(second, residual, PIECE, state)), PIECE)
    moved = waiting * np.float32(0.9) + second
    np.testing.assert_allclose(out + residual, before + moved, atol=1e-7)


def test_a_warm_up_comes_down_to_the_density():
    codec = TopK(0.01, warmup_pushes=4)
    counts = [codec.picks(100_000, payloads) for payloads in range(6)]
    assert counts[0] == 25_000
    assert counts[4:] == [1000, 1000]
    ratios = np.array(counts[1:5]) / counts[:4]
    np.testing.assert_allclose(ratios, 25**-0.25, rtol=1e-3)


def test_settings_and_parameters():
    codec = TopK.of_settings(CodingSettings(density=0.05, momentum_correction=0.9, warmup_pushes=7))
    assert (codec.density, codec.momentum, codec.warmup_pushes) == (0.05, 0.9, 7)
    assert isinstance(TopK.of_parameters(codec.parameters()), TopK)
    with pytest.raises(FrameError):
        TopK.of_parameters(b"\1" + bytes(7))
    with pytest.raises(ValueError, match="density"):
        TopK(density=0.0)


@pytest.mark.parametrize("values", [np.zeros(500), np.full(500, 1e-40), np.ones(500)])
def test_vectors_without_a_largest_value(values):
    piece = piece_of(((500, 50),))
    residual = np.zeros(500, np.float32)
    state = EncoderState()
    total = np.zeros(500, np.float32)
    for _ in range(3):
        payload = payload_of(TopK().encode(values.astype(np.float32), residual, piece, state))
        assert TopK().check(payload, piece, 10.0)
        TopK().decode_accumulate(payload, piece, 1.0, total)
    np.testing.assert_allclose(total + residual, 3 * values, rtol=1e-5)


def test_a_bucket_that_is_not_finite_is_left_out():
    assert_leaves_out_what_is_not_finite(TopK(0.05), PIECE)


def test_a_delta_moves_both_sides_alike():
    assert_delta_moves_both_sides_alike(TopK(0.05), PIECE)


def test_strided_and_read_only_values_are_taken():
    values = np.repeat(gradient(0, PIECE.coded), 2)[::2]
    values.flags.writeable = False
    payload = payload_of(TopK().encode(values, None, PIECE, EncoderState()))
    plain = payload_of(TopK().encode(values.copy(), None, PIECE, EncoderState()))
    assert payload.tobytes() == plain.tobytes()


def test_check_knows_the_largest_magnitude():
    values = np.zeros(PIECE.coded, np.float32)
    values[5] = 100.0
    payload = payload_of(TopK().encode(values, None, PIECE, EncoderState()))
    assert TopK().check(payload, PIECE, 102.0)
    assert not TopK().check(payload, PIECE, 99.0)
    infinite = payload.copy()
    infinite[4:6] = np.array([0x7F80], "<u2").view(np.uint8)
    assert not TopK().check(infinite, PIECE, np.inf)


def test_damaged_payloads_are_refused_or_harmless():
    payload = payload_of(TopK(0.02).encode(gradient(0, PIECE.coded), None, PIECE, EncoderState()))
    assert assert_survives_damage(TopK(), payload, PIECE) > 60
