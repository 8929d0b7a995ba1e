"""power-sgd: exact where the rank allows it, error feedback, shard parts, hostile payloads."""

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
from psedge.compression.power_sgd import LARGEST_RANK, PowerSgd
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import FrameError
from psedge.protocol.layout import Slice, TensorSlice

PIECE = piece_of()


def low_rank(rows, columns, rank, seed=0):
    random = np.random.default_rng(seed)
    product = random.standard_normal((rows, rank)) @ random.standard_normal((rank, columns))
    return product.astype(np.float32).reshape(-1)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_matrix_of_that_rank_arrives_whole(rank):
    piece = piece_of(((60 * 80, 80),))
    values = low_rank(60, 80, rank)
    payload = payload_of(PowerSgd(rank).encode(values, None, piece, EncoderState()))
    assert len(payload) == 4 * rank * (60 + 80)
    np.testing.assert_allclose(decoded(PowerSgd(rank), payload, piece), values, atol=1e-4)


def test_a_started_basis_finds_the_largest_directions():
    """Repeated payloads of one matrix come near to its best approximation of that rank."""
    random = np.random.default_rng(0)
    matrix = low_rank(60, 80, 2) + 0.3 * random.standard_normal(4800).astype(np.float32)
    piece, state, codec = piece_of(((4800, 80),)), EncoderState(), PowerSgd(2)
    for _ in range(4):
        payload = payload_of(codec.encode(matrix, None, piece, state))
    error = np.linalg.norm(decoded(codec, payload, piece) - matrix)
    best = np.linalg.svd(matrix.reshape(60, 80), compute_uv=False)[2:]
    assert error < 1.02 * np.linalg.norm(best)


def test_nothing_is_lost():
    assert_conserves(PowerSgd(2), PIECE, 40)


def test_small_tensors_travel_as_they_are():
    values = gradient(0, PIECE.coded)
    payload = payload_of(PowerSgd(4).encode(values, None, PIECE, EncoderState()))
    last = PIECE.tensors[-1]
    out = decoded(PowerSgd(4), payload, PIECE)
    np.testing.assert_array_equal(out[last.start :], values[last.start : PIECE.coded])


@pytest.mark.parametrize(("start", "stop"), [(0, 1000), (37, 4837), (4800, 4801), (256, 300)])
def test_parts_of_a_tensor_that_a_shard_holds(start, stop):
    part = Slice(0, stop - start, (TensorSlice(0, stop - start, 80),))
    values = np.resize(low_rank(60, 80, 1), 4900)[start:stop]
    residual = np.zeros(len(values), np.float32)
    codec = PowerSgd(2)
    payload = payload_of(codec.encode(values, residual, part, EncoderState()))
    assert len(payload) == codec.payload_limit(part)
    np.testing.assert_allclose(decoded(codec, payload, part) + residual, values, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-30, 1e30, 1e36])
def test_any_size_of_values(scale):
    piece = piece_of(((4800, 80),))
    values = np.clip(low_rank(60, 80, 6), -9, 9) * np.float32(scale)
    residual, state = np.zeros(4800, np.float32), EncoderState()
    for _ in range(3):
        before = residual.copy()
        encoded = PowerSgd(2).encode(values, residual, piece, state)
        assert encoded.finite
        out = decoded(PowerSgd(2), payload_of(encoded), piece)
        total = (before + values).astype(np.float64)
        np.testing.assert_allclose(out.astype(np.float64) + residual, total, atol=1e-5 * scale)
        assert np.isfinite(next(iter(state.bases.values()))).all()


def test_decoding_is_a_sum_of_outer_products_in_order():
    """In float32, rank after rank: no matrix library may choose another order."""
    piece = piece_of(((4800, 80),))
    payload = payload_of(PowerSgd(3).encode(low_rank(60, 80, 9), None, piece, EncoderState()))
    numbers = payload.view("<f4")
    left, right = numbers[:180].reshape(3, 60), numbers[180:].reshape(3, 80)
    expected = left[0][:, None] * right[0]
    for rank in (1, 2):
        expected = expected + left[rank][:, None] * right[rank]
    assert decoded(PowerSgd(3), payload, piece).tobytes() == expected.tobytes()


def test_tensors_that_share_a_bucket_with_what_is_not_finite_are_left_out():
    assert_leaves_out_what_is_not_finite(PowerSgd(2), PIECE)


def test_a_delta_moves_both_sides_alike():
    assert_delta_moves_both_sides_alike(PowerSgd(2), PIECE)


def test_check_bounds_what_is_decoded():
    values = gradient(0, PIECE.coded)
    payload = payload_of(PowerSgd(2).encode(values, None, PIECE, EncoderState()))
    assert PowerSgd(2).check(payload, PIECE, 100.0)
    assert not PowerSgd(2).check(payload, PIECE, float(np.abs(values).max()) / 100)
    for bad in (np.nan, np.inf, 1e30):
        numbers = payload.view("<f4").copy()
        numbers[3] = bad
        assert not PowerSgd(2).check(numbers.view(np.uint8), PIECE, 100.0)


def test_damaged_payloads_are_refused_or_harmless():
    payload = payload_of(PowerSgd(2).encode(gradient(0, PIECE.coded), None, PIECE, EncoderState()))
    assert assert_survives_damage(PowerSgd(2), payload, PIECE) > 50


def test_the_rank_travels_and_is_bounded():
    codec = PowerSgd.of_settings(CodingSettings(rank=7))
    assert PowerSgd.of_parameters(codec.parameters()).rank == 7
    for parameters in (bytes(8), (LARGEST_RANK + 1).to_bytes(8, "little"), b"\2" + b"\1" * 7):
        with pytest.raises(FrameError):
            PowerSgd.of_parameters(parameters)
    with pytest.raises(ValueError, match="rank"):
        PowerSgd(0)
