"""The made-up factory data: the same from the same seed, non-IID by line, and learnable."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from psedge.protocol.errors import DataError
from psedge.worker.datasets import defects, parts
from psedge.worker.datasets.order import permuted
from psedge.worker.datasets.source import ArraySource
from psedge.worker.models.small_cnn import parts_cnn

BOTH = pytest.mark.parametrize("made", [parts, defects], ids=["parts", "defects"])


def everything(source: ArraySource) -> tuple[torch.Tensor, torch.Tensor]:
    return source.batch(np.arange(len(source)), None)


@BOTH
def test_the_same_seed_makes_the_same_pictures(made: ModuleType) -> None:
    first, again = (everything(made.load("train", samples=30)) for _ in range(2))
    other = everything(made.load("train", samples=30, seed=1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@BOTH
def test_train_and_test_share_no_picture(made: ModuleType) -> None:
    train = everything(made.load("train", samples=60))[0].flatten(1).numpy()
    test = everything(made.load("test", test_samples=60))[0].flatten(1).numpy()
    assert len(np.unique(np.concatenate([train, test]), axis=0)) == 120


@BOTH
def test_pictures_are_square_and_normalised(made: ModuleType) -> None:
    inputs, labels = everything(made.load("train", samples=300, size=32))
    assert inputs.shape == (300, 1, 32, 32)
    assert abs(float(inputs.mean())) < 1
    assert 0.5 < float(inputs.std()) < 2
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3, 4, 5]


@BOTH
def test_lines_together_are_the_whole_and_each_prefers_its_own_classes(made: ModuleType) -> None:
    whole = everything(made.load("train", samples=600))
    for line in range(3):
        inputs, labels = everything(made.load("train", samples=600, line=line))
        assert torch.equal(labels, whole[1][line::3])
        assert torch.equal(inputs, whole[0][line::3])
        counts = np.bincount(labels.numpy(), minlength=6)
        assert set(np.argsort(counts)[-2:]) == {2 * line, 2 * line + 1}
        assert counts.min() > 0
    test = np.bincount(everything(made.load("test", test_samples=600))[1].numpy())
    assert test.min() > 70


def test_lines_see_differently() -> None:
    levels = [
        float(everything(parts.load("train", samples=90, line=line))[0].mean()) for line in range(3)
    ]
    assert max(levels) - min(levels) > 0.2


@BOTH
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"line": 3}, "line must be 0 to 2, got 3"),
        ({"lines": 0}, "lines must be at least 1"),
        ({"size": 4}, "16 to 256"),
        ({"samples": 0}, "too few"),
    ],
)
def test_impossible_requests_are_refused(
    made: ModuleType, wrong: dict[str, int], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        made.load("train", **wrong)


def test_parts_can_be_learned_from_a_few_hundred() -> None:
    torch.manual_seed(0)
    train, test = parts.load("train", samples=900, size=32), parts.load("test", test_samples=300)
    model = parts_cnn(dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(6):
        for indices in np.array_split(permuted(np.arange(900), 900, 0, epoch), 28):
            inputs, labels = train.batch(indices, None)
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    model.eval()
    small = parts.load("test", test_samples=300, size=32)
    inputs, labels = everything(small)
    with torch.no_grad():
        accuracy = float((model(inputs).argmax(1) == labels).float().mean())
    assert len(test) == 300
    assert accuracy > 0.6
