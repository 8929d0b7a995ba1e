"""adacomp: the paper's rule against a plain version of it, its size, hostile payloads."""

from __future__ import annotations

import itertools

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

from psedge.compression.adacomp import AdaComp
from psedge.compression.codec import EncoderState
from psedge.protocol.errors import FrameError
from psedge.protocol.layout import Slice, TensorSlice
from psedge.protocol.wire import HEADER_BYTES

PIECE = piece_of()


def by_the_paper(values, residual, piece):
    """Algorithm 2 of Chen et al. 2018, one value at a time: what is sent, as float64."""
    total = residual + values
    sent = np.zeros(len(values))
    for tensor in piece.tensors:
        edges = {*range(tensor.start, tensor.stop), tensor.stop}
        cuts = sorted(
            edge for edge in edges if edge % 256 == 0 or edge in (tensor.start, tensor.stop)
        )
        largest = [np.abs(total[a:b]).max() for a, b in itertools.pairwise(cuts)]
        scale = np.mean(np.array(largest, np.float64))
        for a, b, most in zip(cuts, cuts[1:], largest, strict=False):
            for i in range(a, b):
                if abs(total[i] + values[i]) >= most:
                    sent[i] = np.sign(total[i]) * scale
    return sent


def test_what_is_sent_is_what_the_paper_says():
    values, residual = gradient(0, PIECE.coded), 3 * gradient(1, PIECE.coded)
    expected = by_the_paper(values, residual, PIECE)
    payload = payload_of(AdaComp().encode(values, residual, PIECE, EncoderState()))
    out = decoded(AdaComp(), payload, PIECE)
    np.testing.assert_array_equal(np.sign(out), np.sign(expected))
    np.testing.assert_allclose(out, expected, rtol=2**-8)


def test_nothing_is_lost():
    assert_conserves(AdaComp(), PIECE, 100)


def test_thirtyfold_on_the_wire_with_header_and_vectors_in_float32():
    """Once the residual is filled; a header is 124 bytes, a ResNet-32's vectors are 9,128."""
    piece = piece_of(((16_000, 160), (160_000, 320), (286_000, 572)))
    residual, state = np.zeros(piece.coded, np.float32), EncoderState()
    for step in range(6):
        payload = payload_of(AdaComp().encode(gradient(step, piece.coded), residual, piece, state))
    assert (4 * piece.coded + 9128) / (len(payload) + 9128 + HEADER_BYTES) > 30


def test_bins_do_not_depend_on_where_shards_are_cut():
    """Positions and signs; a scale is a part's own."""
    whole = Slice(0, 2048, (TensorSlice(0, 2048, 64),))
    half = Slice(0, 1024, (TensorSlice(0, 1024, 64),))
    values, residual = gradient(0, 2048), gradient(1, 2048)
    parts = []
    for part in (slice(0, 1024), slice(1024, 2048)):
        encoded = AdaComp().encode(values[part], residual[part].copy(), half, EncoderState())
        parts.append(decoded(AdaComp(), payload_of(encoded), half))
    encoded = AdaComp().encode(values, residual, whole, EncoderState())
    together = decoded(AdaComp(), payload_of(encoded), whole)
    np.testing.assert_array_equal(np.sign(together), np.sign(np.concatenate(parts)))


@pytest.mark.parametrize("values", [np.zeros(700), np.full(700, 1e-40), np.ones(700)])
def test_vectors_where_nothing_stands_out(values):
    piece = piece_of(((700, 50),))
    residual, state = np.zeros(700, np.float32), EncoderState()
    total = np.zeros(700, np.float32)
    for _ in range(3):
        encoded = AdaComp().encode(values.astype(np.float32), residual, piece, state)
        payload = payload_of(encoded)
        assert len(payload) <= AdaComp().payload_limit(piece)
        AdaComp().decode_accumulate(payload, piece, 1.0, total)
    np.testing.assert_allclose(total + residual, 3 * values, rtol=1e-5)


def test_a_bucket_that_is_not_finite_is_left_out():
    assert_leaves_out_what_is_not_finite(AdaComp(), PIECE)


def test_a_delta_moves_both_sides_alike():
    assert_delta_moves_both_sides_alike(AdaComp(), PIECE)


def test_check_knows_the_largest_magnitude():
    values = gradient(0, PIECE.coded)
    payload = payload_of(AdaComp().encode(values, None, PIECE, EncoderState()))
    largest = float(np.abs(decoded(AdaComp(), payload, PIECE)).max())
    assert AdaComp().check(payload, PIECE, largest)
    assert not AdaComp().check(payload, PIECE, 0.99 * largest)
    for word, error in ((0x7F80, None), (0x7FC0, None), (0x8001, FrameError)):
        bad = payload.copy()
        bad[4:6] = np.array([word], "<u2").view(np.uint8)
        if error is None:
            assert not AdaComp().check(bad, PIECE, np.inf)
        else:
            with pytest.raises(FrameError, match="malformed"):
                AdaComp().check(bad, PIECE, np.inf)


def test_damaged_payloads_are_refused_or_harmless():
    payload = payload_of(AdaComp().encode(gradient(0, PIECE.coded), None, PIECE, EncoderState()))
    assert assert_survives_damage(AdaComp(), payload, PIECE) > 60


def test_parameters():
    assert isinstance(AdaComp.of_parameters(AdaComp().parameters()), AdaComp)
    with pytest.raises(FrameError):
        AdaComp.of_parameters(b"\1" + bytes(7))
