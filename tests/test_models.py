"""The shipped models: sizes as published, shapes, seeds, and what happens to wrong arguments."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from psedge.protocol.errors import ConfigError, ModelError
from psedge.worker.config import ModelConfig
from psedge.worker.imports import AllowList
from psedge.worker.models.resnet import BasicBlock, resnet32
from psedge.worker.models.table import MODELS, build

ALLOW = AllowList(())

#: Name, shape of one sample, classes, parameters.
SIZES = [
    ("digits-cnn", (1, 8, 8), 10, 65_834),
    ("fashion-cnn", (1, 28, 28), 10, 162_562),
    ("parts-cnn", (1, 48, 48), 6, 72_406),
    ("defects-cnn", (1, 48, 48), 6, 162_174),
    ("resnet20", (3, 32, 32), 10, 269_722),
    ("resnet32", (3, 32, 32), 10, 464_154),
    ("mobilenetv2", (3, 32, 32), 10, 2_236_682),
    ("mlp", (64,), 10, 26_122),
]


def made(factory: str, seed: int = 0, **arguments: object) -> nn.Module:
    return build(ModelConfig(factory=factory, arguments=arguments), ALLOW, seed)


def test_the_sizes_cover_every_model() -> None:
    assert {name for name, *_ in SIZES} == set(MODELS)


@pytest.mark.parametrize(("name", "shape", "classes", "parameters"), SIZES)
def test_size_and_shapes(name: str, shape: tuple[int, ...], classes: int, parameters: int) -> None:
    model = made(name)
    assert sum(tensor.numel() for tensor in model.parameters()) == parameters
    output = model(torch.randn(2, *shape))
    assert output.shape == (2, classes)
    output.sum().backward()
    assert all(tensor.grad is not None for tensor in model.parameters())


@pytest.mark.parametrize("name", [name for name, *_ in SIZES])
def test_the_number_of_classes_can_be_chosen(name: str) -> None:
    shape = next(shape for known, shape, *_ in SIZES if known == name)
    assert made(name, num_classes=3)(torch.randn(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize("side", [32, 48, 64])
def test_factory_pictures_may_be_of_several_sizes(side: int) -> None:
    for name in ("parts-cnn", "defects-cnn"):
        assert made(name)(torch.randn(2, 1, side, side)).shape == (2, 6)


def test_the_seed_decides_the_initial_parameters_and_nothing_else_does() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (made("resnet32", seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv.weight"], other["conv.weight"])
    assert torch.equal(before, torch.random.get_rng_state())


def test_option_a_shortcuts_take_every_other_pixel_and_pad_channels_with_zeros() -> None:
    block = BasicBlock(16, 32, stride=2).eval()
    for convolution in (block.conv1, block.conv2):
        nn.init.zeros_(convolution.weight)
    inputs = torch.rand(1, 16, 8, 8)
    outputs = block(inputs)
    assert torch.equal(outputs[:, 8:24], inputs[:, :, ::2, ::2])
    assert outputs[:, :8].count_nonzero() == 0
    assert outputs[:, 24:].count_nonzero() == 0


def test_resnet32_has_32_weighted_layers() -> None:
    layers = [layer for layer in resnet32().modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 32


def test_the_width_scales_mobilenetv2() -> None:
    half = made("mobilenetv2", width=0.5)
    assert sum(tensor.numel() for tensor in half.parameters()) == 700_490


def test_mlp_flattens_and_takes_a_shape() -> None:
    model = made("mlp", in_features=[4, 4, 1], hidden=[8], num_classes=1)
    assert model(torch.randn(5, 4, 4, 1)).shape == (5, 1)


@pytest.mark.parametrize(
    ("factory", "arguments", "told"),
    [
        ("resnet32", {"classes": 10}, r"resnet32\(classes = 10\).*model.arguments"),
        ("mlp", {"hidden": [0]}, "every width must be at least 1"),
        ("mobilenetv2", {"width": 0}, "width must be above 0"),
        ("resnet32", {"num_classes": "ten"}, "cannot be built"),
    ],
)
def test_wrong_arguments_are_one_clear_error(
    factory: str, arguments: dict[str, object], told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        made(factory, **arguments)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="resnet"):
        made("resnet31")
