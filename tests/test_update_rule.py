"""The update rules against torch.optim, on shards cut at odd boundaries."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from psedge.compression import decode_apply, reference
from psedge.compression.codec import EncoderState
from psedge.compression.coder import Coder, Opened
from psedge.compression.lossless import NoStage
from psedge.compression.native import kernels
from psedge.compression.table import codec_named
from psedge.protocol.errors import FrameError
from psedge.protocol.layout import Slice, TensorSlice
from psedge.protocol.shards import GroupSettings, OptimizerSettings, Segment
from psedge.server.update_rule import UpdateRule

#: Lengths of four tensors and the group of each; the cuts fall inside of tensors.
LENGTHS = (17, 40, 1, 42)
GROUPS = (0, 1, 0, 1)
CUTS = (0, 13, 57, 100)
STEPS = 50

CASES: dict[str, tuple[Any, Any, list[dict[str, Any]]]] = {
    "sgd": ("sgd", torch.optim.SGD, [{"lr": 0.1}, {"lr": 0.02}]),
    "momentum": (
        "sgd",
        torch.optim.SGD,
        [{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}, {"lr": 0.02, "momentum": 0.9}],
    ),
    "momentum-in-one-group": ("sgd", torch.optim.SGD, [{"lr": 0.1, "momentum": 0.9}, {"lr": 0.1}]),
    "dampening": (
        "sgd",
        torch.optim.SGD,
        [
            {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
            {"lr": 0.1, "momentum": 0.5, "dampening": 0.1},
        ],
    ),
    "nesterov": (
        "sgd",
        torch.optim.SGD,
        [
            {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.001},
            {"lr": 0.2, "momentum": 0.9, "nesterov": True},
        ],
    ),
    "adam": (
        "adam",
        torch.optim.Adam,
        [{"lr": 0.01, "weight_decay": 0.1}, {"lr": 0.003, "betas": (0.8, 0.99), "eps": 1e-6}],
    ),
    "adamw": (
        "adamw",
        torch.optim.AdamW,
        [{"lr": 0.01, "weight_decay": 0.1}, {"lr": 0.003, "weight_decay": 0.0}],
    ),
}


def segments(start: int, stop: int) -> tuple[Segment, ...]:
    edges = [0, *np.cumsum(LENGTHS).tolist()]
    found = []
    for (first, last), group in zip(pairwise(edges), GROUPS, strict=True):
        first, last = max(first, start), min(last, stop)
        if first < last:
            found.append(Segment(first - start, last - start, group))
    return tuple(found)


def random_vector(generator: np.random.Generator) -> NDArray[np.float32]:
    return generator.standard_normal(CUTS[-1]).astype(np.float32)


def take(rule: UpdateRule, parameters: NDArray[np.float32], gradient: Any, **options: Any) -> None:
    """One step along a gradient that is not encoded."""
    along = np.array(gradient, dtype=np.float32)
    rule.apply(parameters, (), (), dense=along, **{"lr_factor": 1.0, **options})


@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "numpy"])
@pytest.mark.parametrize("case", CASES)
def test_three_shards_equal_torch(case: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_apply, "kernels", module)
    rule, torch_class, groups = CASES[case]
    generator = np.random.default_rng(0)
    parameters = random_vector(generator)
    tensors = [
        torch.nn.Parameter(part) for part in torch.from_numpy(parameters.copy()).split(LENGTHS)
    ]
    optimizer = torch_class(
        [
            {
                "params": [tensor for tensor, g in zip(tensors, GROUPS, strict=True) if g == index],
                **group,
            }
            for index, group in enumerate(groups)
        ]
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    settings = OptimizerSettings(rule, tuple(GroupSettings(**group) for group in groups))
    rules = [UpdateRule(settings, segments(a, b), b - a) for a, b in pairwise(CUTS)]

    for step in range(STEPS):
        gradient = random_vector(generator)
        lr_factor = 1.0 - step / (2 * STEPS)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * lr_factor
        for tensor, part in zip(
            tensors, torch.from_numpy(gradient.copy()).split(LENGTHS), strict=True
        ):
            tensor.grad = part
        optimizer.step()
        for shard, (a, b) in zip(rules, pairwise(CUTS), strict=True):
            take(shard, parameters[a:b], gradient[a:b], lr_factor=lr_factor)

    expected = torch.cat([tensor.detach() for tensor in tensors]).numpy()
    np.testing.assert_allclose(parameters, expected, rtol=1e-5, atol=1e-6)


def test_weight_scales_the_whole_step_of_sgd_with_decay() -> None:
    group = GroupSettings(lr=0.1, weight_decay=0.5)
    rule = UpdateRule(OptimizerSettings("sgd", (group,)), (Segment(0, 2, 0),), 2)
    parameters = np.array([1.0, 2.0], dtype=np.float32)
    take(rule, parameters, [3.0, -1.0], weight=0.25)
    np.testing.assert_allclose(parameters, [1 - 0.025 * 3.5, 2 - 0.025 * 0.0], rtol=1e-6)


@pytest.mark.parametrize(("steps", "decay"), [(1, 0.5), (5, 0.0)])
@pytest.mark.parametrize("rule", ["adam", "adamw"])
def test_weight_scales_the_steps_of_adam_though_adam_ignores_the_scale_of_gradients(
    rule: Any, steps: int, decay: float
) -> None:
    start = np.array([1.0, 2.0, -3.0], dtype=np.float32)
    moved = []
    for weight in (1.0, 0.25):
        settings = OptimizerSettings(rule, (GroupSettings(lr=0.1, weight_decay=decay),))
        update = UpdateRule(settings, (Segment(0, 3, 0),), 3)
        parameters = start.copy()
        for _ in range(steps):
            take(update, parameters, [3.0, -1.0, 0.5], weight=weight)
        moved.append(parameters - start)
    np.testing.assert_allclose(moved[1], 0.25 * moved[0], rtol=1e-4)


def test_state_is_only_what_the_rule_needs() -> None:
    def names(rule: Any, *groups: GroupSettings) -> set[str]:
        return set(UpdateRule(OptimizerSettings(rule, groups), (Segment(0, 4, 0),), 4).state)

    assert names("sgd", GroupSettings(lr=0.1)) == set()
    assert names("sgd", GroupSettings(lr=0.1), GroupSettings(lr=0.1, momentum=0.9)) == {"momentum"}
    assert names("adam", GroupSettings(lr=0.1)) == {"exp_avg", "exp_avg_sq"}


def test_a_shard_may_be_empty() -> None:
    rule = UpdateRule(OptimizerSettings("adam", (GroupSettings(lr=0.1),)), (), 0)
    empty = np.zeros(0, dtype=np.float32)
    take(rule, empty, [])
    assert rule.steps == 1


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        (Segment(0, 3, 0),),
        (Segment(1, 4, 0),),
        (Segment(0, 2, 0), Segment(3, 4, 0)),
        (Segment(0, 3, 0), Segment(2, 4, 0)),
        (Segment(0, 4, 0), Segment(4, 4, 0)),
        (Segment(0, 4, 1),),
        (Segment(0, 4, -1),),
    ],
)
def test_segments_that_do_not_cover_the_shard_are_refused(wrong: tuple[Segment, ...]) -> None:
    with pytest.raises(FrameError):
        UpdateRule(OptimizerSettings("sgd", (GroupSettings(lr=0.1),)), wrong, 4)


@pytest.mark.parametrize("nesterov", [False, True])
def test_prediction_is_where_updates_without_gradient_lead(nesterov: bool) -> None:
    groups = (
        GroupSettings(lr=0.1, momentum=0.9, nesterov=nesterov),
        GroupSettings(lr=0.02, momentum=0.9, nesterov=nesterov),
    )
    rule = UpdateRule(OptimizerSettings("sgd", groups), (Segment(0, 5, 0), Segment(5, 9, 1)), 9)
    draw = np.random.default_rng(2)
    parameters = draw.standard_normal(9).astype(np.float32)
    for _ in range(3):
        take(rule, parameters, draw.standard_normal(9), lr_factor=0.5)
    assert np.array_equal(rule.predicted(parameters, 0, 0.5), parameters)
    predicted = rule.predicted(parameters, 4, 0.5)
    for _ in range(4):
        take(rule, parameters, np.zeros(9), lr_factor=0.5)
    np.testing.assert_allclose(predicted, parameters, rtol=1e-5, atol=1e-6)


#: 600 coded parameters and a tail of 100.
PIECE = Slice(0, 700, (TensorSlice(0, 600, 20),))


def opened(name: str, seed: int) -> tuple[Opened, NDArray[np.float32]]:
    """A payload and what it decodes to."""
    values = np.random.default_rng(seed).standard_normal(700).astype(np.float32)
    coder = Coder(codec_named(name), NoStage(), PIECE)
    payload = b"".join(coder.encode(values, None, EncoderState()).parts)
    result = coder.open(memoryview(payload))
    decoded = np.empty(700, np.float32)
    result.decode(decoded)
    return result, decoded


@pytest.mark.parametrize("rule", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("with_dense", [False, True])
@pytest.mark.parametrize("names", [["q4"], ["q8", "q8", "q8"], ["q4", "sign"]])
def test_payloads_step_as_their_decoded_sum_does(
    names: list[str], with_dense: bool, rule: Any
) -> None:
    settings = OptimizerSettings(
        rule, (GroupSettings(0.1, 0.01, momentum=0.9 * (rule == "sgd")), GroupSettings(0.05))
    )
    runs = (Segment(0, 550, 0), Segment(550, 700, 1))
    rules = [UpdateRule(settings, runs, 700) for _ in range(2)]
    vectors = [np.ones(700, np.float32) for _ in range(2)]
    for step in range(3):
        pairs = [opened(name, 10 * step + index) for index, name in enumerate(names)]
        weights = [0.5 / (index + 1) for index in range(len(names))]
        total = np.full(700, 0.1 if with_dense else 0.0, np.float32)
        dense = total.copy() if with_dense else None
        for weight, (_, decoded) in zip(weights, pairs, strict=True):
            total += np.float32(weight) * decoded
        rules[0].apply(vectors[0], [pair[0] for pair in pairs], weights, lr_factor=1, dense=dense)
        take(rules[1], vectors[1], total)
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_momentum_is_adapted_to_the_workers_that_push() -> None:
    group = GroupSettings(0.1, momentum=0.9, nesterov=True)
    adapting = OptimizerSettings("sgd", (group,), momentum_adaptation=True)
    for workers, rate, momentum in ((1, 0.1, 0.9), (5, 0.5, 0.5), (8, 0.8, 0.2), (50, 1.0, 0.0)):
        expected = OptimizerSettings(
            "sgd", (GroupSettings(rate, momentum=momentum, nesterov=True),)
        )
        ours, theirs = (UpdateRule(s, (Segment(0, 3, 0),), 3) for s in (adapting, expected))
        # Without momentum of its own, that rule has no velocity.
        mine, other = np.ones(3, np.float32), np.ones(3, np.float32)
        for step in range(4):
            take(ours, mine, [step, 1.0, -2.0], workers=workers)
            take(theirs, other, [step, 1.0, -2.0])
        np.testing.assert_allclose(mine, other, rtol=1e-6)


def test_momentum_stays_where_it_is_not_to_be_adapted() -> None:
    group = GroupSettings(0.1, momentum=0.9)
    vectors = [np.ones(3, np.float32) for _ in range(2)]
    for workers, vector in zip((1, 8), vectors, strict=True):
        rule = UpdateRule(OptimizerSettings("sgd", (group,)), (Segment(0, 3, 0),), 3)
        for _ in range(3):
            take(rule, vector, [1.0, 2.0, 3.0], workers=workers)
    np.testing.assert_array_equal(*vectors)


def test_delay_compensation_adds_its_term_to_the_gradient() -> None:
    settings = OptimizerSettings("sgd", (GroupSettings(lr=1.0),), delay_compensation=0.5)
    payload, decoded = opened("q8", 1)
    rule = UpdateRule(settings, (Segment(0, 700, 0),), 700)
    theirs = np.linspace(-1, 1, 700, dtype=np.float32)
    parameters = np.zeros(700, np.float32)
    rule.apply(parameters, [payload], [1.0], lr_factor=1.0, compensation=theirs)
    expected = decoded + decoded * np.clip(0.5 * decoded * (0 - theirs), -1, 1)
    np.testing.assert_allclose(-parameters, expected, rtol=1e-5, atol=1e-6)

    plain = np.zeros(700, np.float32)
    rule.apply(plain, [payload], [1.0], lr_factor=1.0)
    np.testing.assert_array_equal(plain, -decoded)
