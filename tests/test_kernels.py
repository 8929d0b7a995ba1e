"""The native kernels against the NumPy versions of the same arithmetic, byte for byte."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from psedge.compression import codes, native, reference
from psedge.compression.codes import BFLOAT16, ECSQ, FLOAT16, FLOAT32, Q8, payload_bytes
from psedge.compression.native import kernels
from psedge.compression.reference.half import from_bfloat, from_half, to_bfloat, to_half

built = pytest.mark.skipif(not native.NATIVE, reason="no C++ compiler when psedge was installed")

ENCODED = range(FLOAT16, ECSQ + 1)
EDGES = (0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1279, 1280)
Floats = NDArray[np.float32]


@pytest.fixture(params=kernels.instruction_sets())
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    kernels.use_instruction_set(request.param)
    yield request.param
    kernels.use_instruction_set(kernels.instruction_sets()[-1])


def normal(draw: np.random.Generator, elements: int) -> Floats:
    return draw.standard_normal(elements).astype(np.float32)


def any_bits(draw: np.random.Generator, elements: int) -> Floats:
    return draw.integers(0, 2**32, elements, dtype=np.uint32).view(np.float32)


def spiked(draw: np.random.Generator, elements: int) -> Floats:
    """Mostly numbers, with a few NaN and infinities among them."""
    values = normal(draw, elements)
    at = draw.random(elements) < 0.002
    values[at] = draw.choice(np.array([np.nan, np.inf, -np.inf], np.float32), int(at.sum()))
    return values


def sparse(draw: np.random.Generator, elements: int) -> Floats:
    values = normal(draw, elements)
    values[draw.random(elements) < 0.9] = 0.0
    values[draw.random(elements) < 0.1] = -0.0
    return values


def spread(draw: np.random.Generator, elements: int) -> Floats:
    """Magnitudes from the smallest subnormal to the largest float."""
    exponents = draw.integers(-149, 127, elements).astype(np.float64)
    return (normal(draw, elements) * 2.0**exponents).astype(np.float32)


def ties(draw: np.random.Generator, elements: int) -> Floats:
    """Multiples of half a level of q8 and q4."""
    return (draw.integers(-254, 255, elements) / 2).astype(np.float32)


def denormal(draw: np.random.Generator, elements: int) -> Floats:
    return normal(draw, elements) * np.float32(1e-39)


def edge_of_zero(draw: np.random.Generator, elements: int) -> Floats:
    return normal(draw, elements) * np.float32(2.0**-101)


def huge(draw: np.random.Generator, elements: int) -> Floats:
    return (normal(draw, elements).astype(np.float64) * 2.0**124.5).astype(np.float32)


def equal(draw: np.random.Generator, elements: int) -> Floats:
    return np.full(elements, draw.choice([1.0, -0.37, 3e30]), np.float32)


KINDS = (normal, any_bits, spiked, sparse, spread, ties, denormal, edge_of_zero, huge, equal)
kinds = st.sampled_from(KINDS)
lengths = st.sampled_from(EDGES) | st.integers(0, 5 * 256 + 7)


def assert_same(left: NDArray[Any], right: NDArray[Any]) -> None:
    """The same bytes; of a NaN, whose payload is the processor's affair, only that it is one."""
    if left.dtype == np.float32:
        nan = np.isnan(right)
        np.testing.assert_array_equal(np.isnan(left), nan)
        left, right = (np.where(nan, 0, array.view(np.uint32)) for array in (left, right))
    np.testing.assert_array_equal(left, right)


def unaligned(size: int, fill: int) -> NDArray[np.uint8]:
    return np.full(size + 1, fill, np.uint8)[1:]


@built
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("code", ENCODED)
@given(length=lengths, kind=kinds, rest=kinds | st.none(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_encode(code: int, stochastic: bool, length: int, kind: Any, rest: Any, seed: int) -> None:
    draw = np.random.default_rng(seed)
    values, before = kind(draw, length), None if rest is None else rest(draw, length)
    block = seed if seed % 2 else 2**32 - 2
    results = []
    for module in (reference, *kernels.instruction_sets()):
        if isinstance(module, str):
            kernels.use_instruction_set(module)
        payload = unaligned(payload_bytes(code, length), 0xA5)
        residual = None if before is None else before.copy()
        encode = kernels.encode if isinstance(module, str) else module.encode
        finite = encode(code, values, residual, payload, stochastic, seed, block, 2.0)
        results.append((finite, payload, residual))
    for finite, payload, residual in results[1:]:
        assert finite == results[0][0]
        assert_same(payload, results[0][1])
        if before is not None:
            assert_same(residual, results[0][2])


@built
@pytest.mark.parametrize("code", ENCODED)
@given(length=lengths, kind=kinds, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_encode_delta_and_its_receiver(code: int, length: int, kind: Any, seed: int) -> None:
    draw = np.random.default_rng(seed)
    target, before = kind(draw, length), sparse(draw, length)
    expected, at_reference = before.copy(), np.empty(payload_bytes(code, length), np.uint8)
    finite = reference.encode_delta(code, target, expected, at_reference, 1.5)
    for name in kernels.instruction_sets():
        kernels.use_instruction_set(name)
        published, received = before.copy(), before.copy()
        payload = unaligned(len(at_reference), 0)
        assert kernels.encode_delta(code, target, published, payload, 1.5) == finite
        assert_same(payload, at_reference)
        kernels.decode_accumulate(code, payload, 1.0, received)
        assert published.tobytes() == expected.tobytes() == received.tobytes()


@built
@pytest.mark.parametrize("code", range(FLOAT32, ECSQ + 1))
@pytest.mark.parametrize("weight", [1.0, 0.3, -2.5])
@given(length=lengths, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_decode_of_any_bytes(code: int, weight: float, length: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    payload = unaligned(payload_bytes(code, length), 0)
    payload[:] = draw.integers(0, 256, len(payload))
    start = normal(draw, length)
    expected, total = np.empty(length, np.float32), start.copy()
    reference.decode(code, payload, expected)
    reference.decode_accumulate(code, payload, weight, total)
    for name in kernels.instruction_sets():
        kernels.use_instruction_set(name)
        # One element beside each end, which must stay as it was.
        out, added = np.full(length + 2, 7, np.float32), np.full(length + 2, 7, np.float32)
        added[1:-1] = start
        kernels.decode(code, payload, out[1:-1])
        kernels.decode_accumulate(code, payload, weight, added[1:-1])
        assert_same(out[1:-1], expected)
        assert_same(added[1:-1], total)
        assert out[0] == out[-1] == added[0] == added[-1] == 7


@built
@pytest.mark.parametrize("code", ENCODED)
@pytest.mark.parametrize("length", [1, 255, 257, 600])
def test_nothing_is_written_beside_the_arrays(code: int, length: int, instruction_set: str) -> None:
    values = normal(np.random.default_rng(1), length)
    residual = np.full(length + 2, 7, np.float32)
    payload = np.full(payload_bytes(code, length) + 2, 0xA5, np.uint8)
    kernels.encode(code, values, residual[1:-1], payload[1:-1], False, 0, 0, 2.0)
    kernels.encode_delta(code, values, residual[1:-1], payload[1:-1], 2.0)
    assert residual[0] == residual[-1] == 7
    assert payload[0] == payload[-1] == 0xA5


@built
@given(length=lengths | st.sampled_from([16384, 40_001]), kind=kinds)
@settings(max_examples=30, deadline=None)
def test_digest(length: int, kind: Any) -> None:
    values = kind(np.random.default_rng(length), length)
    expected = reference.digest(values)
    assert 0 < expected < 2**64
    for name in kernels.instruction_sets():
        kernels.use_instruction_set(name)
        assert kernels.digest(values) == expected


def test_digest_tells_vectors_apart() -> None:
    values = normal(np.random.default_rng(2), 500)
    digests = {kernels.digest(values), kernels.digest(values[:499])}
    for place in range(500):
        changed = values.copy()
        changed.view(np.uint32)[place] ^= np.uint32(1 << (place % 32))
        digests.add(kernels.digest(changed))
    swapped = values.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    negative = np.zeros(9, np.float32)
    digests |= {kernels.digest(swapped), kernels.digest(negative), kernels.digest(-negative)}
    assert len(digests) == 505


def encoded_words(module: Any, code: int, values: Floats) -> NDArray[np.uint16]:
    payload = np.empty(2 * len(values), np.uint8)
    module.encode(code, values, None, payload, False, 0, 0, 1.0)
    return payload.view(np.uint16)


def halves_and_neighbours() -> Floats:
    """Every finite half, the ties between neighbours, and what lies beside them."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    near = [between, np.nextafter(between, np.float32(0)), np.nextafter(between, np.float32(1e9))]
    values = np.concatenate([halves, *near])
    return np.concatenate([values, -values])


@pytest.mark.parametrize("module", [kernels, reference])
def test_halves_round_as_ieee_says(module: Any) -> None:
    bits = np.random.default_rng(3).integers(0, 2**32, 50_000, dtype=np.uint32)
    near = ((bits & 0x807F_FFFF) | ((90 + (bits >> 23) % 52) << 23)).astype(np.uint32)
    for values in (halves_and_neighbours(), near.view(np.float32)):
        small = values[np.abs(values) <= 65504]
        with np.errstate(under="ignore"):
            expected = small.astype(np.float16).view(np.uint16)
        np.testing.assert_array_equal(encoded_words(module, FLOAT16, small), expected)
    beyond = np.array([65504, 65505, 65519.996, 65520, 65536, -1e30, 3e38], np.float32)
    rounded = encoded_words(module, FLOAT16, beyond).view(np.float16)
    np.testing.assert_array_equal(np.abs(rounded), np.full(7, 65504, np.float16))


@pytest.mark.parametrize("module", [kernels, reference])
def test_every_half_and_bfloat_expands_exactly(module: Any) -> None:
    words = np.arange(65536, dtype=np.uint16)
    out = np.empty(65536, np.float32)
    module.decode(FLOAT16, words.view(np.uint8), out)
    assert_same(out, words.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(np.signbit(out), words >> 15 == 1)
    module.decode(BFLOAT16, words.view(np.uint8), out)
    assert_same(out, (words.astype(np.uint32) << 16).view(np.float32))


def test_bfloat_rounds_to_the_nearest_even_and_saturates() -> None:
    words = np.arange(1, 0x7F80, dtype=np.uint32)
    exact = (words << 16).view(np.float32)
    below, above = ((words << 16) - 0x8000).view(np.float32), ((words << 16) + 0x8000)
    np.testing.assert_array_equal(to_bfloat(exact)[0], words)
    np.testing.assert_array_equal(to_bfloat(below)[0], words - (words & 1))
    np.testing.assert_array_equal(to_bfloat(-np.abs(below))[0], words - (words & 1) | 0x8000)
    up = np.minimum(words + (words & 1), 0x7F7F)
    np.testing.assert_array_equal(to_bfloat(above.view(np.float32))[0], up)
    np.testing.assert_array_equal(from_bfloat(to_bfloat(exact)[0]), to_bfloat(exact)[1])


def test_what_a_half_carries_is_what_it_expands_to() -> None:
    words, carried = to_half(halves_and_neighbours())
    assert_same(carried, from_half(words))


FLOATS = np.zeros(4, np.float32)
BYTES = np.zeros(8, np.uint8)
FIXED = np.frombuffer(bytes(16), np.float32)
SHIFTED = np.frombuffer(bytearray(17), np.float32, count=4, offset=1)
MISFITS = [
    (BYTES[:7], FLOATS, ValueError),
    (BYTES, FLOATS[:3], ValueError),
    (np.zeros(8, np.int8), FLOATS, TypeError),
    (BYTES, np.zeros(4, np.float64), TypeError),
    (np.zeros((2, 4), np.uint8), FLOATS, TypeError),
    (np.zeros(16, np.uint8)[::2], FLOATS, TypeError),
    (BYTES, np.zeros(8, np.float32)[::2], TypeError),
    (BYTES, FIXED, TypeError),
    (BYTES, SHIFTED, ValueError),
    (BYTES, [0.0] * 4, TypeError),
    (BYTES, None, TypeError),
]


@pytest.mark.parametrize("module", [kernels, reference])
@pytest.mark.parametrize(("payload", "out", "error"), MISFITS)
def test_decode_refuses_arrays_that_do_not_fit(
    module: Any, payload: Any, out: Any, error: type
) -> None:
    with pytest.raises(error):
        module.decode(FLOAT16, payload, out)
    with pytest.raises(error):
        module.decode_accumulate(FLOAT16, payload, 1.0, out)


@pytest.mark.parametrize("module", [kernels, reference])
def test_encode_refuses_arrays_that_do_not_fit(module: Any) -> None:
    def encode(values: Any, residual: Any, payload: Any, code: int = FLOAT16) -> None:
        module.encode(code, values, residual, payload, False, 0, 0, 2.0)

    for values, residual, payload in (
        (FLOATS[:3], None, BYTES),
        (FLOATS, FLOATS[:3], BYTES),
        (FLOATS, None, BYTES[:6]),
        (SHIFTED, None, BYTES),
    ):
        with pytest.raises(ValueError, match=r"length|size|aligned"):
            encode(values, residual, payload)
    for values, residual, payload in (
        (FLOATS, FIXED, BYTES),
        (FLOATS.astype(np.float64), None, BYTES),
        (FLOATS, None, np.frombuffer(bytes(8), np.uint8)),
    ):
        with pytest.raises(TypeError):
            encode(values, residual, payload)
    encode(FIXED, None, BYTES)
    for code in (-1, FLOAT32, ECSQ + 1):
        with pytest.raises(ValueError, match="no encoder"):
            encode(FLOATS, None, BYTES, code)
        with pytest.raises(ValueError, match="no encoder"):
            module.encode_delta(code, FLOATS, FLOATS.copy(), BYTES, 2.0)


@pytest.mark.parametrize("module", [kernels, reference])
def test_numbers_out_of_range_are_refused(module: Any) -> None:
    payload = np.zeros(130, np.uint8)
    for step in (0.0, -1.0, 17.0, np.nan):
        with pytest.raises(ValueError, match="step"):
            module.encode(ECSQ, FLOATS, None, payload, False, 0, 0, step)
    for seed, block in ((-1, 0), (2**32, 0), (0, 2**32)):
        with pytest.raises(TypeError):
            module.encode(Q8, FLOATS, None, np.zeros(258, np.uint8), True, seed, block, 2.0)
    with pytest.raises(ValueError, match="no such code"):
        module.decode(8, payload, FLOATS.copy())
    with pytest.raises(ValueError, match="no such instruction set"):
        module.use_instruction_set("mmx")


@built
def test_kernels_and_reference_offer_the_same() -> None:
    offered = [name for name in dir(kernels) if not name.startswith("_")]
    assert set(offered) == set(reference.__all__)


@built
def test_sizes_of_payloads_are_the_same_everywhere() -> None:
    for code in ENCODED:
        for length in (0, 1, 256, 257):
            values = np.zeros(length, np.float32)
            payload = np.zeros(codes.payload_bytes(code, length), np.uint8)
            kernels.encode(code, values, None, payload, False, 0, 0, 2.0)


def test_without_kernels_one_warning_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    package = sys.modules["psedge.compression"]
    # The submodule hides behind two names: the entry in sys.modules and the package's attribute.
    monkeypatch.setitem(sys.modules, "psedge.compression._kernels", None)
    monkeypatch.delattr(package, "_kernels", raising=False)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        module = importlib.reload(native)
    try:
        assert not module.NATIVE
        assert module.kernels is reference
        assert [warning.category for warning in seen] == [RuntimeWarning]
        assert "not built" in str(seen[0].message)
    finally:
        monkeypatch.undo()
        importlib.reload(native)
