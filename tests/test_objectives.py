"""Losses and metrics: right values, no silent broadcasting, labels checked, errors that explain."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional

from psedge.protocol.errors import ConfigError, DataError
from psedge.worker.config import ModelConfig
from psedge.worker.imports import AllowList
from psedge.worker.objectives import accuracy, mse, resolve_loss, resolve_metrics

ALLOW = AllowList(())


def config(loss: str = "cross-entropy", **arguments: object) -> ModelConfig:
    return ModelConfig(factory="mlp", loss=loss, loss_arguments=arguments)


def test_cross_entropy_is_torchs_with_its_arguments() -> None:
    output, target = torch.randn(8, 3), torch.randint(3, (8,))
    loss = resolve_loss(config(label_smoothing=0.1, weight=[1, 2, 3]), ALLOW)
    expected = functional.cross_entropy(
        output, target, label_smoothing=0.1, weight=torch.tensor([1.0, 2.0, 3.0])
    )
    assert torch.equal(loss(output, target), expected)


@pytest.mark.parametrize("name", ["bce-with-logits", "mse"])
def test_a_column_of_outputs_goes_with_a_row_of_targets(name: str) -> None:
    output, target = torch.randn(8, 1), torch.randint(2, (8,))
    loss = resolve_loss(config(name), ALLOW)
    assert torch.equal(loss(output, target), loss(output[:, 0], target.float()))


def test_targets_are_never_broadcast() -> None:
    with pytest.raises(DataError, match=r"\[8\].*\[8, 2\]"):
        mse(torch.randn(8, 2), torch.randn(8))


def test_shapes_that_do_not_fit_name_the_loss() -> None:
    loss = resolve_loss(config(), ALLOW)
    with pytest.raises(ConfigError, match=r"cross-entropy.*float32\[4, 3\].*int64\[5\]"):
        loss(torch.randn(4, 3), torch.zeros(5, dtype=torch.int64))


def test_an_unknown_loss_argument_names_the_loss() -> None:
    loss = resolve_loss(config(smoothing=0.1), ALLOW)
    with pytest.raises(ConfigError, match=r"cross-entropy.*smoothing"):
        loss(torch.randn(4, 3), torch.zeros(4, dtype=torch.int64))


def test_an_unknown_loss_and_metric_are_refused() -> None:
    with pytest.raises(ConfigError, match="cross-entropy"):
        resolve_loss(config("crossentropy"), ALLOW)
    with pytest.raises(ConfigError, match="accuracy"):
        resolve_metrics(ModelConfig(factory="mlp", metrics=("acc",)), ALLOW)


def test_a_squared_error_has_no_accuracy() -> None:
    assert dict(resolve_metrics(config("mse"), ALLOW)) == {}
    assert set(resolve_metrics(config(), ALLOW)) == {"accuracy"}


def test_accuracy_of_labels() -> None:
    output = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 9.0]])
    assert accuracy(output, torch.tensor([0, 1, 1, 1])) == 0.75
    assert accuracy(output, torch.tensor([0, 0, -100, -100])) == 0.5


def test_accuracy_of_pixels() -> None:
    target = torch.randint(3, (2, 4, 5))
    output = functional.one_hot(target, 3).permute(0, 3, 1, 2).float()
    assert accuracy(output, target) == 1.0


def test_accuracy_of_yes_and_no() -> None:
    output = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]])
    assert accuracy(output, torch.tensor([1, 0, 0, 0])) == 0.75
    several, target = torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1, 0], [1, 0]])
    measured = resolve_metrics(config("bce-with-logits"), ALLOW)["accuracy"]
    assert measured(several, target) == 0.75


def test_accuracy_of_class_shares() -> None:
    output = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 5.0]])
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]])
    assert accuracy(output, shares) == 0.5


def test_accuracy_does_not_broadcast() -> None:
    with pytest.raises(DataError, match=r"\[2\].*\[4\]"):
        accuracy(torch.randn(4, 3), torch.tensor([0, 1]))
