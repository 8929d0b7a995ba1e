"""What the tests of top-k, adacomp and power-sgd share: slices, gradients, damaged payloads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from psedge.compression.codec import Bytes, Codec, Encoded, EncoderState, Float32Array
from psedge.protocol.errors import FrameError
from psedge.protocol.layout import Slice, TensorSlice

#: Matrices of a small convolutional network, as (elements, columns).
MATRICES = ((432, 27), (2304, 144), (4608, 144), (9216, 288), (640, 64), (10, 5))


def piece_of(matrices=MATRICES, tail: int = 37) -> Slice:
    stops = np.cumsum([elements for elements, _ in matrices]).tolist()
    tensors = tuple(
        TensorSlice(stop - elements, stop, columns)
        for stop, (elements, columns) in zip(stops, matrices, strict=True)
    )
    return Slice(0, stops[-1] + tail, tensors)


def gradient(seed: int, elements: int, scale: float = 1e-3) -> Float32Array:
    """Heavy-tailed as real ones are, larger in some layers than in others."""
    random = np.random.default_rng(seed)
    layers = np.exp(np.sin(np.arange(elements) / 1000))
    return (random.standard_normal(elements) ** 3 * layers * scale).astype(np.float32)


def payload_of(encoded: Encoded) -> Bytes:
    return np.frombuffer(b"".join(encoded.parts), np.uint8)


def decoded(codec: Codec, payload: Bytes, piece: Slice) -> Float32Array:
    out = np.full(piece.coded, 7.0, np.float32)
    codec.decode(payload, piece, out)
    return out


def assert_conserves(codec: Codec, piece: Slice, steps: int) -> None:
    """Over many payloads, what was decoded and what is left add up to what was encoded."""
    residual = np.zeros(piece.coded, np.float32)
    received = np.zeros(piece.coded, np.float64)
    sent = np.zeros(piece.coded, np.float64)
    state = EncoderState()
    for step in range(steps):
        values = gradient(step, piece.coded)
        payload = payload_of(codec.encode(values, residual, piece, state))
        assert len(payload) <= codec.payload_limit(piece)
        assert codec.check(payload, piece, 1.0)
        received += decoded(codec, payload, piece)
        sent += values
        state.payloads += 1
    np.testing.assert_allclose(received + residual, sent, atol=1e-6 * np.abs(sent).max())


def assert_leaves_out_what_is_not_finite(codec: Codec, piece: Slice) -> None:
    """A bucket with a NaN decodes to zeros and keeps its residual; the others lose nothing."""
    values = gradient(1, piece.coded)
    values[700] = np.nan
    values[5000] = -np.inf
    before = gradient(2, piece.coded)
    residual = before.copy()
    encoded = codec.encode(values, residual, piece, EncoderState())
    out = decoded(codec, payload_of(encoded), piece)
    assert not encoded.finite
    left_out = np.zeros(piece.coded, bool)
    left_out[512:768] = left_out[4864:5120] = True
    np.testing.assert_array_equal(residual[left_out], before[left_out])
    assert not out[left_out].any()
    kept = ~left_out
    np.testing.assert_allclose((out + residual)[kept], (before + values)[kept], atol=1e-7)


def assert_delta_moves_both_sides_alike(codec: Codec, piece: Slice) -> None:
    target, published = gradient(3, piece.coded), gradient(4, piece.coded)
    receiver = published.copy()
    payload = payload_of(codec.encode_delta(target, published, piece, EncoderState()))
    codec.decode_accumulate(payload, piece, 1.0, receiver)
    assert receiver.tobytes() == published.tobytes()
    assert np.linalg.norm(target - published) < np.linalg.norm(target - gradient(4, piece.coded))


def damaged(payload: Bytes, seed: int) -> Iterator[Bytes]:
    """Cut, lengthened and bit-flipped payloads."""
    for stop in (0, 1, 3, 4, 5, len(payload) // 2, len(payload) - 1):
        yield payload[:stop]
    yield np.concatenate([payload, payload[:1]])
    random = np.random.default_rng(seed)
    for _ in range(150):
        flipped = payload.copy()
        places = random.integers(0, len(payload), random.integers(1, 4))
        flipped[places] ^= (1 << random.integers(0, 8, len(places))).astype(np.uint8)
        yield flipped
    for header in (0, 1, 2**31, 2**32 - 1):
        yield np.concatenate([np.array([header], "<u4").view(np.uint8), payload[4:]])
    for _ in range(50):
        yield random.integers(0, 256, random.integers(0, 64), dtype=np.uint8)


def assert_survives_damage(codec: Codec, payload: Bytes, piece: Slice) -> int:
    """Damaged payloads are refused or decode to something; returns how many were refused."""
    refused = 0
    for bad in damaged(payload, 5):
        out = np.zeros(piece.coded, np.float32)
        try:
            fits = codec.check(bad, piece, 1e3)
        except FrameError:
            refused += 1
            try:
                codec.decode_accumulate(bad, piece, 1.0, out)
            except FrameError:
                assert not out.any()
            continue
        codec.decode_accumulate(bad, piece, 1.0, out)
        assert not fits or float(np.abs(out).max()) <= 1e3
    return refused
