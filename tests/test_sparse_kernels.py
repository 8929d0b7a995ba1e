"""The sparse kernels: the same bits as their NumPy reference, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psedge.compression import gaps, reference
from psedge.compression.native import NATIVE, kernels
from psedge.protocol.errors import FrameError

built = pytest.mark.skipif(not NATIVE, reason="the native kernels are not built")
ODD = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-42, -0.0, 1e30]


@pytest.fixture(params=kernels.instruction_sets())
def native(request):
    kernels.use_instruction_set(request.param)
    yield kernels
    kernels.use_instruction_set(kernels.instruction_sets()[-1])


def vector(random, elements, kind):
    values = (random.standard_normal(elements) ** 3).astype(np.float32)
    if kind == "odd" and elements:
        places = random.integers(0, elements, 3)
        values[places] = random.choice(np.array(ODD, np.float32), 3)
    if kind == "tiny":
        values *= np.float32(1e-38)
    if kind == "zero":
        values[:] = 0
    return values


def selected(module, values, residual, velocity, threshold, room):
    """All that a selection and a payload of it leave behind, as bytes."""
    residual = residual.copy()
    velocity = None if velocity is None else velocity.copy()
    indices, picked = np.zeros(room, np.uint32), np.zeros(room, np.float32)
    sampled = [
        module.sample_threshold(values, residual, velocity, 0.9, density, first, stride)
        for density, first, stride in ((0.01, 0, 1), (0.3, 2, 5), (1.0, 0, 1), (0.0, 1, 2))
    ]
    count, finite = module.select(values, residual, velocity, 0.9, threshold, indices, picked)
    payload = np.zeros(4 + 2 * -(-count // 256) + 6 * count + 3, np.uint8)[3:]
    size = module.sparse_encode(indices[:count], picked[:count], residual, payload)
    total = np.ones(len(values), np.float32)
    bound = module.sparse_check(payload[:size], len(values))
    module.sparse_accumulate(payload[:size], -0.3, total)
    arrays = [indices, picked, residual, payload[:size], total]
    if velocity is not None:
        arrays.append(velocity)
    return sampled, count, finite, size, bound, [array.tobytes() for array in arrays]


def binned(module, values, residual, stops, room):
    residual = residual.copy()
    indices, picked = np.zeros(room, np.uint32), np.zeros(room, np.float32)
    totals, bins = np.zeros(len(stops)), np.zeros(len(stops), np.int64)
    counted = module.select_bins(values, residual, stops, totals, bins, indices, picked)
    count, _ = counted
    scales = (np.arange(len(stops)) * 999).astype(np.uint16)
    payload = np.zeros(4 + 2 * len(stops) + 5 * count + 1, np.uint8)[1:]
    size = module.signs_encode(indices[:count], picked[:count], stops, scales, residual, payload)
    total = np.ones(len(values), np.float32)
    bound = module.signs_check(payload[:size], stops)
    module.signs_accumulate(payload[:size], stops, -0.3, total)
    arrays = residual, totals, bins, indices, picked, payload[:size], total
    return counted, bound, [array.tobytes() for array in arrays]


@built
@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 5 * 256 + 7), st.data())
def test_kernels_are_the_reference(native_of_all, seed, elements, data):
    random = np.random.default_rng(seed)
    kinds = st.sampled_from(["plain", "odd", "tiny", "zero"])
    values = vector(random, elements, data.draw(kinds))
    values.flags.writeable = False
    residual = vector(random, elements, data.draw(kinds))
    velocity = vector(random, elements, "plain") if data.draw(st.booleans()) else None
    threshold = data.draw(st.sampled_from([0.0, 1e-30, 0.5, 5.0, 1e30]))
    room = data.draw(st.integers(0, elements))
    stops = np.sort(np.append(random.integers(0, elements + 1, 3), elements))
    expected = selected(reference, values, residual, velocity, threshold, room)
    expected_bins = binned(reference, values, residual, stops, room)
    for name in native_of_all.instruction_sets():
        native_of_all.use_instruction_set(name)
        assert selected(native_of_all, values, residual, velocity, threshold, room) == expected
        assert binned(native_of_all, values, residual, stops, room) == expected_bins


@pytest.fixture(scope="module")
def native_of_all():
    yield kernels
    kernels.use_instruction_set(kernels.instruction_sets()[-1])


@built
def test_long_vectors_are_the_reference_too(native):
    """Longer than what is prefetched and than the reference's chunks."""
    random = np.random.default_rng(0)
    values, residual = vector(random, 40_003, "odd"), vector(random, 40_003, "plain")
    stops = np.array([100, 20_000, 20_000, 40_003])
    arguments = values, residual, None, 8.0, 40_003
    assert selected(native, *arguments) == selected(reference, *arguments)
    arguments = values, residual, stops, 900
    assert binned(native, *arguments) == binned(reference, *arguments)


@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "reference"])
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\0\0",  # a byte too many
        b"\1\0\0\0\x80\x3f\1",  # no gap
        b"\1\0\0\0\x80\x3f\1\x0a",  # past the end
        b"\1\0\0\0\x80\x3f\1\x80",  # a gap cut off
        b"\1\0\0\0\x80\x3f\1\x81\0",  # a gap in two bytes that one would hold
        b"\1\0\0\0\x80\x3f\1\xff\xff\xff\xff\xff\x7f",
        b"\1\0\0\0\x80\x3f\1\1\1",
        b"\1\0\0\0\x80\xbf\1\1",  # a negative scale
        b"\xff\xff\xff\xff\x80\x3f\1\1",
    ],
)
def test_malformed_payloads_are_known(module, payload):
    data = np.frombuffer(payload, np.uint8)
    assert module.sparse_check(data, 10) == -1.0
    if payload[4:6] != b"\x80\xbf":
        out = np.ones(10, np.float32)
        with pytest.raises(ValueError, match="malformed"):
            module.sparse_accumulate(data, 1.0, out)
        assert (out == 1.0).all()


@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "reference"])
def test_payload_is_what_its_description_says(module):
    indices = np.array([2, 3, 300], np.uint32)
    picked = np.array([127.0, -64.0, 1.2], np.float32)
    residual = np.zeros(301, np.float32)
    payload = np.zeros(40, np.uint8)
    size = module.sparse_encode(indices, picked, residual, payload)
    assert payload[:size].tobytes() == b"\3\0\0\0\x80\x3f\x7f\xc0\1\2\0\xa8\2"
    assert module.sparse_check(payload[:size], 301) == 128.0
    assert residual[300] == np.float32(1.2) - np.float32(1)
    assert module.sparse_check(payload[:size], 300) == -1.0


@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "reference"])
def test_arrays_that_do_not_fit_are_refused(module):
    values, indices = np.zeros(9, np.float32), np.zeros(4, np.uint32)
    picked, payload = np.zeros(4, np.float32), np.zeros(99, np.uint8)
    with pytest.raises(ValueError, match="length"):
        module.select(values, values[:8].copy(), None, 0.0, 1.0, indices, picked)
    with pytest.raises(ValueError, match="threshold"):
        module.select(values, values.copy(), None, 0.0, float("nan"), indices, picked)
    with pytest.raises(ValueError, match="indices rise"):
        module.sparse_encode(indices, picked, None, payload)
    rising = np.arange(4, dtype=np.uint32)
    with pytest.raises(ValueError, match="past the end"):
        module.sparse_encode(rising, picked, np.zeros(3, np.float32), payload)
    with pytest.raises(ValueError, match="too short"):
        module.sparse_encode(rising, picked, None, payload[:20])
    with pytest.raises(ValueError, match="last stop"):
        module.select_bins(
            values, values.copy(), np.array([3]), np.zeros(1), np.zeros(1, int), indices, picked
        )
    with pytest.raises(ValueError, match="do not fall"):
        module.select_bins(
            values,
            values.copy(),
            np.array([9, 3, 9]),
            np.zeros(3),
            np.zeros(3, int),
            indices,
            picked,
        )


@given(st.lists(st.integers(0, 2**34), max_size=50))
def test_numbers_come_back_from_their_bytes(numbers):
    packed = gaps.pack(np.array(numbers, np.uint64))
    assert gaps.unpack(packed, len(numbers)).tolist() == numbers
    for wrong in (packed[:-1], np.append(packed, np.uint8(0))):
        if len(wrong) or numbers:
            with pytest.raises(FrameError):
                gaps.unpack(wrong, len(numbers))


@pytest.mark.parametrize("packed", [b"\x80\0", b"\xff\0", b"\x80" * 5 + b"\1", b"\x80"])
def test_numbers_have_one_form_only(packed):
    with pytest.raises(FrameError):
        gaps.unpack(np.frombuffer(packed, np.uint8), 1)


def test_gaps_too_large_to_add_up_are_refused():
    with pytest.raises(FrameError, match="past the end"):
        gaps.positions_of(np.full(3, 2**64 - 2, np.uint64), 100)
