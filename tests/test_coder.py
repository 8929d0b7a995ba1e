"""A slice as it travels: coded part, lossless stage, float32 tail."""

from __future__ import annotations

import numpy as np
import pytest

from psedge.compression.codec import EncoderState, Float32Array
from psedge.compression.coder import Coder, Opened, apply, coder_of_frame
from psedge.compression.codes import BUCKET
from psedge.compression.lossless import available, stage_named
from psedge.compression.step import SGD_SETTINGS, Step
from psedge.compression.table import CODECS, PULL_CODECS, codec_named
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import FrameError
from psedge.protocol.layout import Slice, TensorSlice

NAMES = [codec.name for codec in CODECS]
PIECE = Slice(512, 1000, (TensorSlice(0, 600, 30), TensorSlice(600, 900, 20)))
TAIL = slice(900, 1000)


def numbers(seed: int, elements: int = 1000) -> Float32Array:
    values = np.random.default_rng(seed).standard_t(3, elements)
    return (0.01 * values).astype(np.float32)


def coder(name: str, stage: str = "none", piece: Slice = PIECE) -> Coder:
    return Coder(codec_named(name, CodingSettings()), stage_named(stage), piece)


def opened(coding: Coder, values: Float32Array, residual: Float32Array | None = None) -> Opened:
    payload = b"".join(coding.encode(values, residual, EncoderState()).parts)
    assert len(payload) <= coding.payload_limit
    received = coder_of_frame(
        coding.codec.id, coding.codec.parameters(), coding.lossless.id, coding.piece
    )
    return received.open(memoryview(payload))


def decoded(payload: Opened) -> Float32Array:
    assert payload.check(1e18)
    out = np.full(payload.piece.elements, np.nan, np.float32)
    payload.decode(out)
    return out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stage", available())
def test_what_is_carried_and_what_is_left_add_up(name: str, stage: str) -> None:
    values, residual = numbers(1), numbers(2)
    total = values + residual
    carried = decoded(opened(coder(name, stage), values, residual))
    np.testing.assert_allclose(carried + residual, total, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_biases_and_norms_travel_as_they_are(name: str) -> None:
    values, residual = numbers(1), np.zeros(1000, np.float32)
    carried = decoded(opened(coder(name), values, residual))
    assert carried[TAIL].tobytes() == values[TAIL].tobytes()
    assert not residual[TAIL].any()


@pytest.mark.parametrize("name", [name for name in NAMES if name in PULL_CODECS])
@pytest.mark.parametrize("stage", available())
def test_a_chain_of_deltas_keeps_sender_and_receiver_alike_bit_for_bit(
    name: str, stage: str
) -> None:
    coding, state = coder(name, stage), EncoderState()
    published = numbers(3)
    received = published.copy()
    for step in range(20):
        target = numbers(4 + step)
        payload = b"".join(coding.encode_delta(target, published, state).parts)
        coding.open(memoryview(payload)).decode_delta(received)
        assert received.tobytes() == published.tobytes()
        assert received[TAIL].tobytes() == target[TAIL].tobytes()


def test_a_slice_without_matrices_is_all_tail() -> None:
    piece = Slice(0, 40, ())
    values = numbers(5, 40)
    assert decoded(opened(coder("q4", "lz4", piece), values)).tobytes() == values.tobytes()


def test_an_empty_slice_is_an_empty_payload() -> None:
    piece = Slice(0, 0, ())
    payload = coder("q4", piece=piece).encode(numbers(0, 0), None, EncoderState())
    assert sum(len(part) for part in payload.parts) == 0


@pytest.mark.parametrize("name", NAMES)
def test_lengths_that_do_not_fit_are_refused(name: str) -> None:
    coding = coder(name)
    payload = b"".join(coding.encode(numbers(1), None, EncoderState()).parts)
    for wrong in (payload[:-1], payload[:300], payload + b"\0" * 5000, b""):
        with pytest.raises(FrameError):
            coding.open(memoryview(wrong)).check(1e18)


def test_a_payload_that_swells_beyond_its_bound_is_refused() -> None:
    coding = coder("q4", "deflate")
    swollen = stage_named("deflate").compress(bytes(10_000_000))
    with pytest.raises(FrameError, match="at most"):
        coding.open(memoryview(bytes(swollen) + bytes(400)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [3, 950])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_is_reported_and_never_enters_the_residual(
    name: str, where: int, value: float
) -> None:
    values, residual = numbers(1), np.zeros(1000, np.float32)
    values[where] = value
    encoded = coder(name).encode(values, residual, EncoderState())
    assert not encoded.finite
    assert np.isfinite(residual).all()


def sgd(parameters: Float32Array, velocity: Float32Array) -> Step:
    columns = {"rate": 0.1, "decay": 1e-3, "momentum": 0.9, "undamped": 1.0, "nesterov": 0.0}
    settings = np.array([[columns[name] for name in SGD_SETTINGS]] * 2, np.float32)
    stops = np.array([BUCKET + 17, len(parameters)], np.int64)
    return Step("sgd", parameters, (velocity,), stops, settings)


@pytest.mark.parametrize(
    "names",
    [("q4",), ("q4", "q4", "q4"), ("identity",), ("top-k", "top-k"), ("q4", "q8", "identity")],
)
def test_decode_and_apply_equals_a_step_along_the_decoded_sum(names: tuple[str, ...]) -> None:
    payloads = [opened(coder(name), numbers(seed)) for seed, name in enumerate(names)]
    weights = [0.5, 0.25, 0.25][: len(names)]
    total = np.zeros(1000, np.float32)
    for payload, weight in zip(payloads, weights, strict=True):
        total += np.float32(weight) * decoded(payload)
    expected, expected_velocity = numbers(8), numbers(9)
    apply([opened(coder("identity"), total)], [1.0], sgd(expected, expected_velocity))
    parameters, velocity = numbers(8), numbers(9)
    apply(payloads, weights, sgd(parameters, velocity))
    np.testing.assert_allclose(parameters, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(velocity, expected_velocity, rtol=1e-6, atol=1e-9)
