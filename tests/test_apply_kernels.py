"""Decode-and-apply: the native kernels and the NumPy reference, bit for bit, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from psedge.compression import codes, native, reference
from psedge.compression.codec import EncoderState
from psedge.compression.decode_apply import apply_decoded, apply_dense, apply_payloads
from psedge.compression.native import kernels
from psedge.compression.step import ADAM_SETTINGS, SGD_SETTINGS, Step
from psedge.compression.table import codec_named
from psedge.protocol.layout import Slice, TensorSlice

ALL_CODES = tuple(range(len(codes.CODE_BYTES)))
SETS = kernels.instruction_sets()
LONGEST = 5 * codes.BUCKET + 7
EDGES = sorted({0, 1, 2, 15, 17, LONGEST} | {256 * k + d for k in (1, 2, 4) for d in (-1, 0, 1)})
RULES = ("plain", "momentum", "nesterov", "adam", "adamw")

built = pytest.mark.skipif(not native.NATIVE, reason="no C++ compiler when psedge was installed")


@pytest.fixture(autouse=True)
def best_set_in_the_end() -> Iterator[None]:
    yield
    kernels.use_instruction_set(SETS[-1])


def payload_of(code: int, elements: int, draw: np.random.Generator) -> NDArray[np.uint8]:
    """A payload of numbers, among them denormals, zeros of both signs and large ones."""
    values = draw.standard_normal(elements).astype(np.float32)
    values[::7] *= np.float32(1e-39)
    values[1::11] = -0.0
    values[2::13] *= np.float32(1e17)
    if code == codes.FLOAT32:
        return values.view(np.uint8)
    if code == codes.FLOAT16:
        return np.clip(values, -6e4, 6e4).astype(np.float16).view(np.uint8)
    if code == codes.BFLOAT16:
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    size = codes.payload_bytes(code, elements)
    payload = draw.integers(0, 256, size, dtype=np.uint8)
    scales = draw.choice(
        np.array([0, 1e-38, 1e-5, 3e-3, 1, 1e16], np.float32), codes.buckets_of(elements)
    )
    payload[: 2 * len(scales)] = (scales.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return payload


def off_by_one(vector: NDArray[Any]) -> NDArray[Any]:
    """A copy that starts one element after where a register's width would have it."""
    return np.concatenate([vector[:1], vector])[1:]


class Case:
    """Arguments of one step, the same from the same seed."""

    def __init__(
        self, rule: str, code: int, elements: int, payloads: int, dense: bool, seed: int
    ) -> None:
        draw = np.random.default_rng(seed)
        self.rule = rule
        self.code = code
        self.payloads = [off_by_one(payload_of(code, elements, draw)) for _ in range(payloads)]
        self.weights = draw.choice([1.0, 0.25, 0.7], payloads).astype(np.float32)
        self.dense = draw.standard_normal(elements).astype(np.float32) if dense else None
        self.parameters = off_by_one(draw.standard_normal(elements).astype(np.float32))
        self.state = [off_by_one(draw.random(elements).astype(np.float32)) for _ in range(2)]
        cuts = draw.integers(1, max(2, elements), min(elements, 6))
        stops = {int(cut) for cut in cuts if cut < elements} | ({elements} - {0})
        self.stops = np.array(sorted(stops), np.int64)
        columns = ADAM_SETTINGS if rule.startswith("adam") else SGD_SETTINGS
        self.settings = draw.uniform(0.01, 1, (len(stops), len(columns))).astype(np.float32)
        self.settings[::2, 1] = 0
        if not rule.startswith("adam"):
            self.settings[:, 4] = rule == "nesterov"
        self.weight = float(draw.choice([1.0, 0.37]))

    def result(self, module: Any) -> list[NDArray[np.float32]]:
        """Parameters and state after the step."""
        parameters, *state = (off_by_one(vector) for vector in (self.parameters, *self.state))
        gradient = (self.code, self.payloads, self.weights, self.dense)
        runs = (self.stops, self.settings, self.weight)
        if self.rule.startswith("adam"):
            module.adam(*gradient, parameters, *state, *runs, self.rule == "adamw")
        else:
            velocity = None if self.rule == "plain" else state[0]
            module.sgd(*gradient, parameters, velocity, *runs)
        return [parameters, *state]


def assert_native_equals_reference(case: Case) -> None:
    expected = case.result(reference)
    for name in SETS:
        kernels.use_instruction_set(name)
        for ours, theirs in zip(case.result(kernels), expected, strict=True):
            np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32), name)


@built
@pytest.mark.parametrize("elements", EDGES)
@pytest.mark.parametrize("code", ALL_CODES)
def test_every_code_at_bucket_edges(code: int, elements: int) -> None:
    for index, rule in enumerate(RULES):
        assert_native_equals_reference(Case(rule, code, elements, 1, False, seed=index))


@built
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(RULES),
    st.sampled_from(ALL_CODES),
    st.integers(0, LONGEST),
    st.integers(0, 9),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_any_sum_of_payloads(
    rule: str, code: int, elements: int, payloads: int, dense: bool, seed: int
) -> None:
    assert_native_equals_reference(Case(rule, code, elements, payloads, dense, seed))


@pytest.mark.parametrize("code", ALL_CODES)
def test_the_gradient_is_the_weighted_sum_in_order(code: int) -> None:
    case = Case("plain", code, LONGEST, 5, True, seed=3)
    assert case.dense is not None
    case.settings[:] = (1, 0, 0, 1, 0)
    case.weight = 1.0
    total = case.dense.copy()
    for payload, weight in zip(case.payloads, case.weights, strict=True):
        kernels.decode_accumulate(code, payload, float(weight), total)
    np.testing.assert_array_equal(case.result(kernels)[0], case.parameters - total)


MODULES = [pytest.param(kernels, marks=built, id="native"), pytest.param(reference, id="numpy")]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("name", "wrong", "error"),
    [
        ("payloads", [np.zeros(6, np.uint8)], ValueError),
        ("payloads", [np.zeros(8, np.uint8)] * 2, ValueError),
        ("payloads", [np.zeros(4, np.float16)], TypeError),
        ("weights", np.ones(2, np.float32), ValueError),
        ("weights", np.ones(1), TypeError),
        ("dense", np.zeros(5, np.float32), ValueError),
        ("parameters", np.frombuffer(bytes(16), np.float32), TypeError),
        ("velocity", np.zeros(3, np.float32), ValueError),
        ("velocity", np.zeros(8, np.float32)[::2], TypeError),
        ("stops", np.array([2, 2, 4]), ValueError),
        ("stops", np.array([2, 3, 5]), ValueError),
        ("stops", np.array([2, 3, 3]), ValueError),
        ("stops", np.array([-1, 2, 4]), ValueError),
        ("stops", np.array([2, 4]), ValueError),
        ("settings", np.zeros((3, 4), np.float32), ValueError),
        ("settings", np.zeros((3, 10), np.float32)[:, ::2], TypeError),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    module: Any, name: str, wrong: Any, error: type[Exception]
) -> None:
    arguments: dict[str, Any] = {
        "code": codes.FLOAT16,
        "payloads": [np.zeros(8, np.uint8)],
        "weights": np.ones(1, np.float32),
        "dense": None,
        "parameters": np.zeros(4, np.float32),
        "velocity": np.zeros(4, np.float32),
        "stops": np.array([1, 2, 4]),
        "settings": np.zeros((3, 5), np.float32),
        "weight": 1.0,
    }
    module.sgd(**arguments)
    with pytest.raises(error):
        module.sgd(**{**arguments, name: wrong})


def step_of(rule: Any, elements: int) -> Step:
    draw = np.random.default_rng(5)
    columns = SGD_SETTINGS if rule == "sgd" else ADAM_SETTINGS
    stops = np.array([elements // 3, elements // 2, elements])
    return Step(
        rule,
        draw.standard_normal(elements).astype(np.float32),
        tuple(draw.random(elements).astype(np.float32) for _ in range(1 if rule == "sgd" else 2)),
        stops,
        draw.uniform(0.01, 0.9, (3, len(columns))).astype(np.float32),
        0.5,
    )


@pytest.mark.parametrize("rule", ["sgd", "adam", "adamw"])
def test_parts_of_a_step_are_the_step(rule: str) -> None:
    gradient = np.random.default_rng(6).standard_normal(1000).astype(np.float32)
    whole = step_of(rule, 1000)
    apply_dense(gradient, whole)
    for cut in (0, 1, 256, 333, 334, 500, 999, 1000):
        cut_up = step_of(rule, 1000)
        apply_dense(gradient[:cut], cut_up.part(0, cut))
        apply_dense(gradient[cut:], cut_up.part(cut, 1000))
        np.testing.assert_array_equal(cut_up.parameters, whole.parameters)
        for ours, theirs in zip(cut_up.state, whole.state, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_payloads_that_no_kernel_decodes_are_summed_first() -> None:
    piece = Slice(0, 1000, (TensorSlice(0, 1000, 10),))
    codec = codec_named("q4")
    draw = np.random.default_rng(7)
    payloads = []
    for _ in range(3):
        values = draw.standard_normal(1000).astype(np.float32)
        parts = codec.encode(values, None, piece, EncoderState()).parts
        payloads.append(np.frombuffer(b"".join(parts), np.uint8))
    fused, summed = step_of("sgd", 1000), step_of("sgd", 1000)
    apply_payloads(codec.id, payloads, [0.2, 0.3, 0.5], None, fused)
    apply_decoded(codec, payloads, [0.2, 0.3, 0.5], piece, summed)
    np.testing.assert_array_equal(fused.parameters, summed.parameters)
    np.testing.assert_array_equal(fused.state[0], summed.state[0])
