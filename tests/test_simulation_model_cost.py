"""A model's cost per sample relative to ResNet-32, and the memory of a simulation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from psedge.protocol.errors import ConfigError
from psedge.simulation.model_cost import (
    check_memory,
    free_memory_bytes,
    model_factor,
    simulation_bytes,
)
from psedge.toml_config import load_config
from psedge.worker.models.table import MODELS

PICTURE = torch.zeros(1, 3, 32, 32)
RESNET32 = 464_154


def test_resnet32_is_the_measure() -> None:
    model = MODELS["resnet32"]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert model_factor(model, PICTURE) == pytest.approx(1.0)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_other_models_go_by_their_multiply_adds() -> None:
    assert 0.55 < model_factor(MODELS["resnet20"](), PICTURE) < 0.65
    assert model_factor(MODELS["digits-cnn"](), torch.zeros(1, 1, 8, 8)) < 0.05
    twice = model_factor(nn.Linear(10, 20), torch.zeros(2, 10))
    assert twice == model_factor(nn.Linear(10, 20), torch.zeros(1, 10))


def test_what_torch_cannot_count_costs_something() -> None:
    assert model_factor(nn.LSTM(8, 16), torch.zeros(1, 5, 8)) > 0


def test_parts_that_were_in_evaluation_stay_there() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[1].eval()
    model_factor(model, torch.zeros(1, 4))
    assert [module.training for module in model] == [True, False, True]


def test_memory_grows_with_what_is_kept() -> None:
    def needed(*flags: str) -> int:
        plain = ("compression.push=identity", "compression.pull=identity")
        return simulation_bytes(load_config({}, [*plain, "cluster.workers=100", *flags]), RESNET32)

    vector = 4 * RESNET32
    assert needed("compression.push=q4") - needed() == 100 * vector
    assert needed("compression.pull=q4") - needed() == 100 * vector
    shared = ("compression.pull=q4", "compression.pull_chain=shared")
    assert needed(*shared) == needed()
    assert needed("optimizer.kind=adam") - needed("optimizer.momentum=0") == 2 * vector


def test_what_does_not_fit_is_refused_with_numbers_and_advice() -> None:
    experiment = load_config({}, ["cluster.workers=10000"])
    check_memory(experiment, 1000, 8_000_000_000)
    with pytest.raises(ConfigError) as caught:
        check_memory(experiment, RESNET32, 8_000_000_000)
    assert str(caught.value) == (
        "10,000 workers with a model of 464,154 parameters would take 111.8 GB of this machine's "
        "memory, and 7.2 GB can be had: simulate 609 at the most, or take a smaller model"
    )
    with pytest.raises(ConfigError, match="take a smaller model, or a machine with more memory"):
        check_memory(load_config({}), 10_000_000_000, 8_000_000_000)


def test_this_machine_says_what_is_free() -> None:
    free = free_memory_bytes()
    assert free is None or free > 1e8
