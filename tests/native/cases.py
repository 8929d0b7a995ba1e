"""Calls of kernels to try on another machine: all lengths near a bucket's edges, and all values.

A call is a kernel's name and its arguments, as `_kernels.pyi` declares them; everything is drawn
from a seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psedge.compression import codes, reference

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Call = tuple[str, list[Any]]

#: What any length may be made of: registers, lanes, planes and buckets, and one more or less.
_EDGES = (0, 1, 2, 8, 16, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1287)
_BUCKETED = (codes.Q8, codes.Q4, codes.TERNARY, codes.SIGN, codes.ECSQ)
_CODES = (codes.FLOAT32, codes.FLOAT16, codes.BFLOAT16, *_BUCKETED)


def calls(count: int, seed: int) -> Iterator[Call]:
    """`count` calls, of every kernel in turn."""
    draw = np.random.default_rng(seed)
    for index in range(count):
        make = _MAKERS[index % len(_MAKERS)]
        yield make(draw)


def _length(draw: np.random.Generator) -> int:
    if draw.random() < 0.6:
        return int(draw.choice(_EDGES))
    return int(draw.integers(0, 3000))


def values(draw: np.random.Generator, elements: int) -> Floats:
    """Numbers of one kind, or of a mixture: gradients are of all of them, one time or another."""
    result = draw.standard_normal(elements) * 10.0 ** draw.integers(-8, 8)
    match int(draw.integers(0, 9)):
        case 0:
            result = draw.standard_t(1.5, elements)
        case 1:
            result = np.where(draw.random(elements) < 0.9, 0.0, result)
        case 2:
            result = np.round(result * 8) / 16
        case 3:
            return _any_bits(draw, elements)
        case 4:
            result = result * 1e-38
        case 5:
            result = draw.uniform(-3.4e38, 3.4e38, elements)
        case 6:
            # On either side of 2**-100, below which a bucket counts as zero.
            result = draw.uniform(-2, 2, elements) * 2.0**-100
        case _:
            pass
    with np.errstate(over="ignore"):
        floats = result.astype(np.float32)
    if elements and draw.random() < 0.15:
        floats[draw.integers(0, elements)] = draw.choice([np.nan, np.inf, -np.inf])
    if elements and draw.random() < 0.15:
        floats[draw.integers(0, elements)] = -0.0
    return floats


def _any_bits(draw: np.random.Generator, elements: int) -> Floats:
    return draw.integers(0, 2**32, elements, dtype=np.uint32).view(np.float32)


def _moderate(draw: np.random.Generator, elements: int) -> Floats:
    return draw.standard_normal(elements).astype(np.float32)


def _maybe(draw: np.random.Generator, array: Floats) -> Floats | None:
    return array if draw.random() < 0.6 else None


def _payload(draw: np.random.Generator, code: int, elements: int) -> Bytes:
    """An honest one, or random codes under honest scales."""
    payload = np.zeros(codes.payload_bytes(code, elements), np.uint8)
    source = _moderate(draw, elements)
    if code == codes.FLOAT32:
        return source.view(np.uint8)
    reference.encode(code, source, None, payload, False, 0, 0, 2.0)
    if code in _BUCKETED and draw.random() < 0.5:
        scales = 2 * ((elements + 255) // 256)
        payload[scales:] = draw.integers(0, 256, len(payload) - scales)
    return payload


def _encode(draw: np.random.Generator) -> Call:
    elements, code = _length(draw), int(draw.choice(_CODES[1:]))
    payload = np.zeros(codes.payload_bytes(code, elements), np.uint8)
    residual = _maybe(draw, values(draw, elements))
    stochastic, step = bool(draw.random() < 0.5), float(draw.choice([0.5, 1.0, 2.0, 3.0]))
    seed, block = int(draw.integers(0, 2**32)), int(draw.integers(0, 2**32))
    arguments = [values(draw, elements), residual, payload, stochastic, seed, block, step]
    return "encode", [code, *arguments]


def _encode_delta(draw: np.random.Generator) -> Call:
    elements, code = _length(draw), int(draw.choice(_CODES[1:]))
    payload = np.zeros(codes.payload_bytes(code, elements), np.uint8)
    target, published = values(draw, elements), values(draw, elements)
    return "encode_delta", [code, target, published, payload, 2.0]


def _decode(draw: np.random.Generator) -> Call:
    elements, code = _length(draw), int(draw.choice(_CODES))
    return "decode", [code, _payload(draw, code, elements), np.zeros(elements, np.float32)]


def _decode_accumulate(draw: np.random.Generator) -> Call:
    elements, code = _length(draw), int(draw.choice(_CODES))
    payload, out = _payload(draw, code, elements), _moderate(draw, elements)
    return "decode_accumulate", [code, payload, float(np.float32(draw.normal())), out]


def _runs(
    draw: np.random.Generator, elements: int, kinds: list[list[float]]
) -> tuple[NDArray[np.int64], Floats]:
    most = min(4, elements)
    inner = draw.choice(np.arange(1, elements), max(most - 1, 0), replace=False) if most else []
    stops = np.sort(np.array([*inner, elements], np.int64)) if elements else np.zeros(0, np.int64)
    rows = [kinds[int(draw.integers(0, len(kinds)))] for _ in stops]
    return stops, np.array(rows, np.float32).reshape(len(stops), len(kinds[0]))


def _gradient(draw: np.random.Generator, elements: int) -> list[Any]:
    code, number = int(draw.choice(_CODES)), int(draw.integers(0, 9))
    payloads = [_payload(draw, code, elements) for _ in range(number)]
    weights = np.array([draw.choice([1.0, draw.random()]) for _ in payloads], np.float32)
    return [code, payloads, weights, _maybe(draw, _moderate(draw, elements))]


def _sgd(draw: np.random.Generator) -> Call:
    elements = _length(draw)
    kinds = [
        [0.1, 0, 0, 1, 0],
        [0.1, 5e-4, 0.9, 1, 0],
        [0.03, 0, 0.9, 0.5, 0],
        [0.1, 0.1, 0.9, 1, 1],
    ]
    vectors = [_moderate(draw, elements), _maybe(draw, _moderate(draw, elements))]
    runs = _runs(draw, elements, kinds)
    return "sgd", [*_gradient(draw, elements), *vectors, *runs, float(draw.choice([1.0, 0.25]))]


def _adam(draw: np.random.Generator) -> Call:
    elements = _length(draw)
    kinds = [
        [1e-3, 0, 0.9, 0.1, 0.999, 0.001, 3.0, 1e-8],
        [0.1, 0.01, 0.8, 0.2, 0.9, 0.1, 1.5, 1e-3],
    ]
    vectors = [_moderate(draw, elements), _moderate(draw, elements)]
    square = np.abs(_moderate(draw, elements))
    runs = _runs(draw, elements, kinds)
    tail = [float(draw.choice([1.0, 0.25])), bool(draw.random() < 0.5)]
    return "adam", [*_gradient(draw, elements), *vectors, square, *runs, *tail]


def _sample_threshold(draw: np.random.Generator) -> Call:
    elements = _length(draw)
    vectors = [values(draw, elements), values(draw, elements), _maybe(draw, values(draw, elements))]
    density = float(draw.choice([0.0, 0.01, 0.3, 1.0]))
    stride = int(draw.integers(1, 9))
    return "sample_threshold", [*vectors, 0.9, density, int(draw.integers(0, stride)), stride]


def _select(draw: np.random.Generator) -> Call:
    elements = _length(draw)
    source, residual = values(draw, elements), values(draw, elements)
    velocity = _maybe(draw, values(draw, elements))
    finite = np.abs(source[np.isfinite(source)])
    threshold = float(np.quantile(finite, draw.random())) if finite.size else 0.5
    room = int(draw.integers(0, elements + 1))
    outputs = [np.zeros(room, np.uint32), np.zeros(room, np.float32)]
    return "select", [source, residual, velocity, 0.9, float(np.float32(threshold)), *outputs]


def _select_bins(draw: np.random.Generator) -> Call:
    elements = _length(draw)
    source, residual = values(draw, elements), values(draw, elements)
    stops = _stops(draw, elements)
    room = int(draw.integers(0, elements + 1))
    totals = [np.zeros(len(stops), np.float64), np.zeros(len(stops), np.int64)]
    outputs = [np.zeros(room, np.uint32), np.zeros(room, np.float32)]
    return "select_bins", [source, residual, stops, *totals, *outputs]


def _picked(draw: np.random.Generator) -> tuple[NDArray[np.uint32], Floats, int]:
    """Rising indices, values there, and the length of the vector they are from."""
    density = float(draw.choice([1.0, 0.3, 0.01]))
    elements = int(draw.integers(1, 70_000 if density < 0.1 else 3000))
    indices = np.flatnonzero(draw.random(elements) < density).astype(np.uint32)
    return indices, values(draw, len(indices)), elements


def _room(indices: NDArray[np.uint32]) -> Bytes:
    count = len(indices)
    return np.zeros(4 + 2 * ((count + 255) // 256) + 6 * count, np.uint8)


def _sparse_encode(draw: np.random.Generator) -> Call:
    indices, picked, elements = _picked(draw)
    residual = _maybe(draw, _moderate(draw, elements))
    return "sparse_encode", [indices, picked, residual, _room(indices)]


def _sparse_payload(draw: np.random.Generator) -> tuple[Bytes, int]:
    indices, _, elements = _picked(draw)
    payload = _room(indices)
    used = reference.sparse_encode(indices, _moderate(draw, len(indices)), None, payload)
    return payload[:used].copy(), elements


def _sparse_check(draw: np.random.Generator) -> Call:
    payload, elements = _sparse_payload(draw)
    if draw.random() < 0.5:
        payload[draw.integers(0, len(payload))] ^= np.uint8(1 << draw.integers(0, 8))
    if draw.random() < 0.3:
        payload = payload[: draw.integers(0, len(payload) + 1)].copy()
    return "sparse_check", [payload, elements]


def _sparse_accumulate(draw: np.random.Generator) -> Call:
    payload, elements = _sparse_payload(draw)
    weight = float(np.float32(draw.normal()))
    return "sparse_accumulate", [payload, weight, _moderate(draw, elements)]


def _stops(draw: np.random.Generator, elements: int) -> NDArray[np.int64]:
    inner = np.sort(draw.integers(0, elements + 1, int(draw.integers(0, 5))))
    return np.array([*inner, elements], np.int64)


def _scales(draw: np.random.Generator, tensors: int) -> NDArray[np.uint16]:
    """Upper halves of float32 that are not negative."""
    return (np.abs(values(draw, tensors)).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _signs_encode(draw: np.random.Generator) -> Call:
    indices, picked, elements = _picked(draw)
    stops = _stops(draw, elements)
    residual = _maybe(draw, _moderate(draw, elements))
    payload = np.zeros(4 + 2 * len(stops) + 5 * len(indices), np.uint8)
    scales = _scales(draw, len(stops))
    return "signs_encode", [indices, picked, stops, scales, residual, payload]


def _signs_payload(draw: np.random.Generator) -> tuple[Bytes, NDArray[np.int64], int]:
    _, (indices, picked, stops, scales, _, payload) = _signs_encode(draw)
    used = reference.signs_encode(indices, picked, stops, scales, None, payload)
    return payload[:used].copy(), stops, int(stops[-1])


def _signs_check(draw: np.random.Generator) -> Call:
    payload, stops, _ = _signs_payload(draw)
    if draw.random() < 0.5:
        payload[draw.integers(0, len(payload))] ^= np.uint8(1 << draw.integers(0, 8))
    if draw.random() < 0.3:
        payload = payload[: draw.integers(0, len(payload) + 1)].copy()
    return "signs_check", [payload, stops]


def _signs_accumulate(draw: np.random.Generator) -> Call:
    payload, stops, elements = _signs_payload(draw)
    weight = float(np.float32(draw.normal()))
    return "signs_accumulate", [payload, stops, weight, _moderate(draw, elements)]


def _digest(draw: np.random.Generator) -> Call:
    return "digest", [_any_bits(draw, _length(draw))]


_MAKERS = (
    _encode,
    _encode_delta,
    _decode,
    _decode_accumulate,
    _sgd,
    _adam,
    _sample_threshold,
    _select,
    _select_bins,
    _sparse_encode,
    _sparse_check,
    _sparse_accumulate,
    _signs_encode,
    _signs_check,
    _signs_accumulate,
    _digest,
)
