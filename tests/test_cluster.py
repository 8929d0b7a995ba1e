"""Whole runs inside one process: real shards, supervisor, workers and loopback sockets."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import TensorDataset

import psedge
from psedge.protocol.errors import ConfigError, ModelError, TrainingError, UserError
from psedge.worker.datasets.order import permuted

QUIET = Console(quiet=True)
SAMPLES = 128


def points(samples: int = SAMPLES, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 6, generator=generator)
    return TensorDataset(inputs, (inputs[:, 0] + inputs[:, 1] > 0).long())


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))


def config(**sections: dict[str, Any]) -> dict[str, Any]:
    base: dict[str, dict[str, Any]] = {
        "data": {"batch_size": 8},
        "optimizer": {"lr": 0.1, "momentum": 0.9},
        "schedule": {"length": 2},
        "cluster": {"servers": 2, "workers": 2, "heartbeat_seconds": 0.05, "lease_seconds": 5.0},
    }
    for name, section in sections.items():
        base[name] = {**base.get(name, {}), **section}
    return base


def run(tmp_path: Path, settings: dict[str, Any], **objects: Any) -> Any:
    objects.setdefault("loss", nn.CrossEntropyLoss())
    return psedge.run(settings, out=tmp_path / "run", console=QUIET, **objects)


@pytest.mark.parametrize("samples", [SAMPLES, 16 * SAMPLES])
def test_bsp_equals_large_batch_sgd_step_by_step(tmp_path: Path, samples: int) -> None:
    # Two workers are handed ranges of 32 positions; in step k of a pair of ranges they push the
    # k-th batch of each, whoever has which, and however many ranges ahead they claim.
    data = points(samples)
    model, alone = network(), network()
    exact = {"push": "identity", "pull": "identity"}
    settings = config(sync={"mode": "bsp"}, compression=exact)
    result = run(tmp_path, settings, model=model, dataset=(data, data))
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    inputs, targets = data.tensors
    for epoch in range(2):
        order = permuted(np.arange(samples), samples, 0, epoch)
        for pair in range(0, samples, 64):
            for at in range(pair, pair + 32, 8):
                chosen = np.concatenate([order[at : at + 8], order[at + 32 : at + 40]])
                optimizer.zero_grad()
                nn.CrossEntropyLoss()(alone(inputs[chosen]), targets[chosen]).backward()
                optimizer.step()
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert result.pushes_applied == 2 * samples // 8
    assert result.staleness_max == 0


@pytest.mark.parametrize("mode", ["ssp", "asp"])
def test_every_sample_is_applied_once_per_epoch(tmp_path: Path, mode: str) -> None:
    settings = config(sync={"mode": mode, "staleness_bound": 1}, cluster={"workers": 3})
    result = run(tmp_path, settings, model=network(), dataset=(points(), points(seed=1)))
    assert result.phase == "finished"
    assert result.samples_applied == result.samples_seen == 2 * SAMPLES
    if mode == "ssp":
        assert result.staleness_max <= 1


def test_a_paced_straggler_keeps_the_others_within_the_bound(tmp_path: Path) -> None:
    settings = config(
        sync={"mode": "ssp", "staleness_bound": 2}, cluster={"workers": 3, "pace": [1.0, 1.0, 6.0]}
    )
    result = run(tmp_path, settings, model=network(), dataset=(points(512), points(seed=1)))
    assert result.staleness_max <= 2
    steps = [worker.steps for worker in result.worker_rows]
    assert sum(steps) == 2 * 512 // 8


@pytest.mark.parametrize(
    ("push", "pull", "mode"),
    [("identity", "identity", "ssp"), ("float16", "float16", "ssp"), ("q4", "q8", "bsp")],
)
def test_training_learns_through_any_codec(tmp_path: Path, push: str, pull: str, mode: str) -> None:
    settings = config(
        compression={"push": push, "pull": pull},
        schedule={"length": 8},
        sync={"mode": mode},
        worker={"overlap": push == "float16"},
    )
    result = run(tmp_path, settings, model=network(), dataset=(points(512), points(256, seed=1)))
    assert result.test_accuracy > 0.9
    per_push = result.bytes_pushed / result.pushes_applied
    assert (per_push > 600) == (push == "identity")


def test_local_steps_push_once_for_many_batches(tmp_path: Path) -> None:
    settings = config(
        sync={"mode": "bsp", "local_steps": 4}, schedule={"length": 8}, optimizer={"lr": 0.2}
    )
    result = run(tmp_path, settings, model=network(), dataset=(points(512), points(256, seed=1)))
    assert result.samples_applied == 8 * 512
    assert result.pushes_applied == 8 * 512 // (4 * 8)
    assert result.test_accuracy > 0.9


def test_batch_norm_statistics_of_one_worker_are_those_of_a_single_process(tmp_path: Path) -> None:
    data = points()

    def normed() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    model, alone = normed(), normed()
    settings = config(cluster={"workers": 1}, schedule={"length": 1})
    run(tmp_path, settings, model=model, dataset=data)
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    inputs, targets = data.tensors
    order = permuted(np.arange(SAMPLES), SAMPLES, 0, 0)
    for at in range(0, SAMPLES, 8):
        chosen = order[at : at + 8]
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(alone(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_an_optimizer_object_brings_its_rule_and_groups(tmp_path: Path) -> None:
    model = network()
    before = model[2].bias.detach().clone()
    optimizer = torch.optim.AdamW(
        [
            {"params": [*model[0].parameters(), model[2].weight], "lr": 0.01},
            {"params": [model[2].bias], "lr": 0.0, "weight_decay": 0.0},
        ]
    )
    run(tmp_path, config(), model=model, dataset=points(), optimizer=optimizer)
    assert torch.equal(model[2].bias, before)
    assert "adamw" not in (tmp_path / "run" / "config.toml").read_text()


def test_a_loss_that_is_nan_from_the_first_step_ends_with_one_clear_message(tmp_path: Path) -> None:
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def broken(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output, target) * float("nan")

    with pytest.raises(TrainingError, match="not finite"):
        run(tmp_path, config(), model=model, dataset=points(), loss=broken)
    for ours, theirs in zip(model.parameters(), before, strict=True):
        assert torch.equal(ours, theirs)


def test_labels_that_the_model_does_not_know_are_named(tmp_path: Path) -> None:
    inputs, targets = points().tensors
    with pytest.raises(UserError, match="out of bounds"):
        run(tmp_path, config(), model=network(), dataset=TensorDataset(inputs, targets + 7))


def test_a_model_without_trainable_parameters_is_refused_at_the_start(tmp_path: Path) -> None:
    frozen = network().requires_grad_(False)
    with pytest.raises(ModelError, match="no trainable"):
        run(tmp_path, config(), model=frozen, dataset=points())


def test_more_servers_than_parameters_is_a_mistake_in_the_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too few"):
        run(tmp_path, config(cluster={"servers": 9}), model=nn.Linear(6, 1), dataset=points())


def test_a_run_whose_loss_is_nan_says_so_in_its_folder(tmp_path: Path) -> None:
    def nan(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return output.sum() * float("nan")

    settings = config(schedule={"length": 1000})
    with pytest.raises(TrainingError, match="5 gradients in a row"):
        run(tmp_path, settings, model=network(), dataset=points(), loss=nan)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["phase"] == "failed"
    assert "5 gradients in a row" in result["reason"]


def test_ctrl_c_ends_a_run_in_order_with_its_model(tmp_path: Path) -> None:
    steps: list[int] = []
    cross_entropy = nn.CrossEntropyLoss()

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        if len(steps) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return cross_entropy(output, target)  # type: ignore[no-any-return]

    model, before = network(), network()
    settings = config(schedule={"length": 100_000})
    result = run(tmp_path, settings, model=model, dataset=points(), loss=loss)
    assert (result.phase, result.reason) == ("stopped", "stopped by Ctrl-C")
    assert list((tmp_path / "run" / "checkpoints").glob("*/checkpoint.json"))
    assert not torch.equal(model[0].weight, before[0].weight)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
