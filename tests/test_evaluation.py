"""An evaluation counts every sample once, whatever the batch size, and leaves the model alone."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from psedge.protocol.errors import DataError, ModelError
from psedge.protocol.status import Evaluation
from psedge.worker.config import ModelConfig
from psedge.worker.datasets.source import ArraySource
from psedge.worker.evaluation import check_fit, evaluate
from psedge.worker.objectives import accuracy, cross_entropy

CPU = torch.device("cpu")


def source(samples: int = 50) -> ArraySource:
    draw = np.random.default_rng(4)
    inputs = draw.standard_normal((samples, 6)).astype(np.float32)
    return ArraySource("made", inputs, draw.integers(3, size=samples), classes=3)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


@pytest.mark.parametrize("batch_size", [1, 7, 50, 1000])
def test_means_are_over_all_samples(model: nn.Module, batch_size: int) -> None:
    data = source()
    inputs, targets = data.batch(np.arange(50), None)
    model.eval()
    with torch.no_grad():
        output = model(inputs)
    result = evaluate(
        model, data, cross_entropy, {"accuracy": accuracy}, CPU, batch_size=batch_size
    )
    assert result.samples == 50
    assert result.loss == pytest.approx(float(functional.cross_entropy(output, targets)), rel=1e-5)
    assert result.accuracy == pytest.approx(float((output.argmax(1) == targets).float().mean()))
    assert result.metrics == {}


def test_the_model_is_left_as_it_was(model: nn.Module) -> None:
    model.train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, source(), cross_entropy, {}, CPU)
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(tensor.grad is None for tensor in model.parameters())


def test_modes_come_back_after_a_failure(model: nn.Module) -> None:
    def broken(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise ValueError("no")

    model.train()
    with pytest.raises(ValueError, match="no"):
        evaluate(model, source(), broken, {}, CPU)
    assert model.training


def test_further_metrics_are_named(model: nn.Module) -> None:
    result = evaluate(model, source(), cross_entropy, {"my:one": lambda output, target: 1.0}, CPU)
    assert result.accuracy is None
    assert result.metrics == {"my:one": 1.0}


def test_reduced_precision_is_near_and_the_loss_is_computed_in_float32(model: nn.Module) -> None:
    exact = evaluate(model, source(), cross_entropy, {}, CPU)
    seen = set()

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.add(output.dtype)
        return cross_entropy(output, target)

    rough = evaluate(model, source(), loss, {}, CPU, precision="bfloat16")
    assert seen == {torch.float32}
    assert rough.loss != exact.loss
    assert rough.loss == pytest.approx(exact.loss, rel=0.02)


def test_channels_last_changes_nothing_but_the_memory_order() -> None:
    torch.manual_seed(1)
    seen = []
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
    network[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].stride()))
    draw = np.random.default_rng(4)
    data = ArraySource(
        "made", draw.standard_normal((9, 3, 8, 8)).astype(np.float32), np.arange(9) % 3
    )
    one = evaluate(network, data, cross_entropy, {}, CPU)
    other = evaluate(network, data, cross_entropy, {}, CPU, channels_last=True)
    assert other.loss == pytest.approx(one.loss, rel=1e-5)
    assert seen == [(192, 64, 8, 1), (192, 1, 24, 3)]


def test_a_diverged_model_has_no_loss_that_json_cannot_carry(model: nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    result = evaluate(model, source(), cross_entropy, {"accuracy": accuracy}, CPU)
    assert result.loss is None
    assert msgspec.json.decode(msgspec.json.encode(result), type=Evaluation) == result


def test_test_data_that_do_not_fit_are_told_before_training(model: nn.Module) -> None:
    config = ModelConfig("mine:net")
    check_fit(model, source(), cross_entropy, {"accuracy": accuracy}, CPU, config)
    inputs = np.zeros((20, 6), np.float32)
    nine = ArraySource("ours.npz", inputs, np.array([0] * 19 + [9]))
    with pytest.raises(DataError, match=r"ours\.npz has 10 classes, but the model has 3 outputs"):
        check_fit(model, nine, cross_entropy, {}, CPU, config)
    wide = ArraySource("wide.npz", np.zeros((20, 7), np.float32), np.zeros(20, np.int64))
    with pytest.raises(ModelError, match=r"mine:net cannot be measured on wide\.npz"):
        check_fit(model, wide, cross_entropy, {}, CPU, config)
