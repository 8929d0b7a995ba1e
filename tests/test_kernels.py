"""The native kernels against the NumPy versions of the same arithmetic, bit for bit."""

from __future__ import annotations

import importlib
import itertools
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from psedge.compression import native
from psedge.compression.half_precision import from_half_in_numpy, to_half, to_half_in_numpy
from psedge.protocol.shards import GroupSettings, OptimizerSettings, Segment
from psedge.server import update_rule
from psedge.server.update_rule import UpdateRule

built = pytest.mark.skipif(not native.NATIVE, reason="no C++ compiler when psedge was installed")

LENGTHS = (0, 1, 7, 15, 16, 17, 31, 33, 1000, 16385)


def random_floats(seed: int, elements: int) -> NDArray[np.float32]:
    """Every kind of float32: half of them any bits, half near the range of a half."""
    bits = np.random.default_rng(seed).integers(0, 2**32, elements, dtype=np.uint32)
    near = (bits & 0x807F_FFFF) | ((90 + (bits >> 23) % 56) << 23).astype(np.uint32)
    return np.where(np.arange(elements) % 2 == 0, bits, near).view(np.float32)


def edge_floats() -> NDArray[np.float32]:
    """Every half, the ties between neighbours, what lies beside them, and past the largest."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    near = [ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(1e9))]
    beyond = [65504, 65505, 65519.996, 65520, 65536, 3e38, np.inf, np.nan, 1e-45, 1e-40, 1.2e-38]
    values = np.concatenate([halves, *near, np.array(beyond, np.float32)])
    return np.concatenate([values, -values])


def assert_same_halves(left: NDArray[np.uint16], right: NDArray[np.uint16]) -> None:
    """The same bits; of a NaN, whose payload is the processor's affair, the sign only."""
    nan = np.isnan(right.view(np.float16))
    np.testing.assert_array_equal(np.isnan(left.view(np.float16)), nan)
    np.testing.assert_array_equal(
        np.where(nan, left >> 15, left), np.where(nan, right >> 15, right)
    )


def assert_same_floats(left: NDArray[np.float32], right: NDArray[np.float32]) -> None:
    nan = np.isnan(right)
    np.testing.assert_array_equal(np.isnan(left), nan)
    ours, theirs = left.view(np.uint32), right.view(np.uint32)
    np.testing.assert_array_equal(np.where(nan, 0, ours), np.where(nan, 0, theirs))


@built
def test_every_half_is_decoded_as_numpy_does_it() -> None:
    halves = np.arange(65536, dtype=np.uint16)
    ours, theirs = np.empty((2, 65536), np.float32)
    native.half_decode(halves, ours)
    from_half_in_numpy(halves, theirs)
    assert_same_floats(ours, theirs)
    assert_same_floats(ours, halves.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(np.signbit(ours), halves >> 15 == 1)


@built
@pytest.mark.parametrize("seed", range(3))
def test_floats_are_encoded_as_numpy_does_it(seed: int) -> None:
    values = np.concatenate([edge_floats(), random_floats(seed, 200_000)])
    ours, theirs = np.empty((2, len(values)), np.uint16)
    native.half_encode(values, ours)
    to_half_in_numpy(values, theirs)
    assert_same_halves(ours, theirs)


@built
@pytest.mark.parametrize("in_place", [False, True])
def test_what_rounding_drops_is_the_same(in_place: bool) -> None:
    values = np.concatenate([edge_floats(), random_floats(5, 100_000)])
    values = values[np.isfinite(values)]
    results = []
    for encode in (native.half_encode, to_half_in_numpy):
        mine = values.copy()
        dropped = mine if in_place else np.empty_like(values)
        halves = np.empty(len(values), np.uint16)
        encode(mine, halves, dropped)
        results.append((halves, dropped))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert_same_floats(results[0][1], results[1][1])


@built
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("elements", LENGTHS)
def test_any_length_and_offset_and_nothing_beside_it(elements: int, offset: int) -> None:
    values = random_floats(1, elements + offset)[offset:]
    part = slice(offset, offset + elements)
    halves, expected = np.full((2, elements + offset + 1), 0x1234, np.uint16)
    native.half_encode(values, halves[part])
    to_half_in_numpy(values, expected[part])
    assert_same_halves(halves, expected)
    floats, decoded = np.full((2, elements + offset + 1), 7, np.float32)
    native.half_decode(halves[part], floats[part])
    from_half_in_numpy(halves[part], decoded[part])
    assert_same_floats(floats, decoded)


def test_arrays_that_are_not_aligned_to_their_elements_are_taken() -> None:
    raw = bytearray(4 * 9 + 1)
    values = np.frombuffer(raw, np.float32, count=9, offset=1)
    values[:] = np.arange(9)
    out = np.empty(9, np.uint16)
    to_half(values, out)
    np.testing.assert_array_equal(out.view(np.float16), np.arange(9))


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.01},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.8, "dampening": 0.3, "weight_decay": 1e-3},
)


@built
@pytest.mark.parametrize("weight", [1.0, 0.37])
@pytest.mark.parametrize("options", [*OPTIONS, "mixed"], ids=str)
@pytest.mark.parametrize("elements", [1, 17, 1001])
def test_sgd_equals_the_numpy_path(
    elements: int, options: Any, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = OPTIONS if options == "mixed" else (options,)
    groups = tuple(
        GroupSettings(lr=lr, **kind) for kind, lr in itertools.product(kinds, (0.1, 0.03))
    )
    groups += tuple(GroupSettings(lr=0.1, **{**kind, "weight_decay": 0.2}) for kind in kinds)
    edges = np.linspace(0, elements, min(elements, 4 * len(groups)) + 1).astype(int).tolist()
    segments = tuple(
        Segment(start, stop, index % len(groups))
        for index, (start, stop) in enumerate(itertools.pairwise(edges))
    )
    monkeypatch.setattr(update_rule, "CHUNK_ELEMENTS", 64)
    draw = np.random.default_rng(elements)
    # One element further on, so that no vector starts where a register's width would have it.
    start = draw.standard_normal(elements + 1).astype(np.float32)
    gradients = [draw.standard_normal(elements + 1).astype(np.float32) for _ in range(4)]
    gradients[1][::5] = 1e-42
    gradients[2][::7] = -0.0
    gradients[3][::11] = 3e38
    results = []
    for is_native in (True, False):
        monkeypatch.setattr(native, "NATIVE", is_native)
        rule = UpdateRule(OptimizerSettings("sgd", groups), segments, elements)
        parameters = start.copy()
        for gradient in gradients:
            rule.apply(parameters[1:], gradient.copy()[1:], 0.7, weight)
        results.append((parameters, *rule.state.values()))
    for ours, theirs in zip(*results, strict=True):
        assert_same_floats(ours, theirs)


FLOATS = np.zeros(4, np.float32)
HALVES = np.zeros(4, np.uint16)


@built
@pytest.mark.parametrize(
    ("halves", "out", "error"),
    [
        (HALVES[:3], FLOATS, ValueError),
        (HALVES, FLOATS[:3], ValueError),
        (np.zeros(4, np.int16), FLOATS, TypeError),
        (HALVES, np.zeros(4, np.float64), TypeError),
        (np.zeros((2, 2), np.uint16), FLOATS, TypeError),
        (np.zeros(8, np.uint16)[::2], FLOATS, TypeError),
        (HALVES, np.frombuffer(bytes(16), np.float32), TypeError),
        (HALVES, np.frombuffer(bytearray(17), np.float32, count=4, offset=1), ValueError),
        (HALVES, [0.0] * 4, TypeError),
        (HALVES, None, TypeError),
    ],
)
def test_decode_refuses_arrays_that_do_not_fit(halves: Any, out: Any, error: type) -> None:
    with pytest.raises(error):
        native.half_decode(halves, out)


@built
def test_encode_refuses_arrays_that_do_not_fit() -> None:
    for arrays in ((FLOATS[:3], HALVES), (FLOATS, HALVES[:3]), (FLOATS, HALVES, FLOATS[:3])):
        with pytest.raises(ValueError, match="differ in length"):
            native.half_encode(*arrays)
    with pytest.raises(TypeError):
        native.half_encode(FLOATS.astype(np.float64), HALVES)


@built
@pytest.mark.parametrize("name", ["gradient", "velocity", "rates", "decays"])
def test_sgd_refuses_arrays_that_do_not_fit(name: str) -> None:
    arguments: dict[str, Any] = {
        "parameters": FLOATS.copy(), "gradient": FLOATS, "velocity": None, "rate": 0.1,
        "rates": None, "decay": 0.0, "decays": None, "weight": 1.0, "momentum": 0.9,
        "undamped": 1.0, "nesterov": False,
    }  # fmt: skip
    native.sgd(**arguments)
    with pytest.raises(ValueError, match="differ in length"):
        native.sgd(**{**arguments, name: np.zeros(5, np.float32)})
    with pytest.raises(TypeError):
        native.sgd(**{**arguments, name: np.zeros(4, np.float64)})


def test_without_kernels_one_warning_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    # Importing again replaces the package's attribute, which this puts back in the end.
    monkeypatch.setattr(sys.modules["psedge.compression"], "native", native)
    monkeypatch.setitem(sys.modules, "psedge.compression._kernels", None)
    monkeypatch.delitem(sys.modules, "psedge.compression.native")
    with pytest.warns(RuntimeWarning, match="not built on this machine.* g\\+\\+"):
        without = importlib.import_module("psedge.compression.native")
    assert without.NATIVE is False
