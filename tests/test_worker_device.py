"""What a machine computes on and is called, and the smaller parts of a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from psedge.protocol.errors import ConfigError
from psedge.protocol.shards import LocalOptimizer
from psedge.worker.batch_count import BatchCount
from psedge.worker.device import choose_device, describe
from psedge.worker.metrics import Metrics
from psedge.worker.torch_optimizer import settings_of_torch, torch_optimizer

CPU = torch.device("cpu")


def test_auto_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ("gpu", "expected one of auto, cpu, cuda, mps"),
        ("cpu:1", "expected one of"),
        ("cuda:x", "expected one of"),
        ("cuda", "CUDA|no NVIDIA GPU"),
        ("mps", "no Metal"),
    ],
)
def test_a_device_that_is_not_there_is_told(
    wish: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=reason):
        choose_device(wish)


def test_a_gpu_that_is_not_there_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ConfigError, match="there are 1 GPUs"):
        choose_device("cuda:1")


def test_a_board_tells_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0")
    assert describe(CPU, tmp_path) == "Raspberry Pi 4 Model B Rev 1.4"


def test_a_pc_is_called_by_its_processor(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast   CPU\n")
    assert describe(CPU, tmp_path) == "Fast CPU"
    assert describe(CPU, tmp_path / "nothing")


def test_the_rate_is_of_the_last_steps_and_falls_in_silence() -> None:
    metrics = Metrics(100.0)
    assert metrics.rate(101.0) == 0.0
    for step in range(1, 11):
        metrics.add_step(100.0 + step * 0.5, 32)
    assert metrics.rate(105.0) == pytest.approx(64.0)
    assert metrics.rate(105.9) == pytest.approx(64.0)
    assert metrics.rate(115.0) < 25.0


def test_a_worker_slower_than_the_window_still_has_a_rate() -> None:
    metrics = Metrics(0.0)
    for step in range(1, 4):
        metrics.add_step(step * 20.0, 32)
    assert metrics.rate(60.0) == pytest.approx(1.6)


def test_each_heartbeat_reports_the_loss_since_the_last() -> None:
    metrics = Metrics(0.0)
    metrics.add_loss(1.0, 30)
    metrics.add_loss(4.0, 10)
    first = metrics.heartbeat(1.0, 3, 9, pushed=5, pulled=6, failure="")
    assert (first.loss, first.worker, first.bytes_pushed) == (1.75, 3, 5)
    assert metrics.heartbeat(2.0, 3, 9, pushed=5, pulled=6, failure="").loss is None


def test_batches_are_counted_in_training_only() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    count = BatchCount(model)
    assert count.take() == 0
    model(torch.randn(5, 3))
    model(torch.randn(7, 3))
    model.eval()
    model(torch.randn(9, 3))
    model.train()
    with torch.no_grad():
        model(torch.randn(9, 3))
    assert count.take() == 12
    assert count.take() == 0
    count.remove()
    model(torch.randn(5, 3))
    assert count.take() == 0


def test_batches_are_found_in_named_and_nested_arguments() -> None:
    class Named(nn.Module):
        def forward(self, scale: float, *, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return batch["x"] * scale

    model = Named()
    count = BatchCount(model)
    model(2.0, batch={"x": torch.randn(4, 3)})
    assert count.take() == 4


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters())


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.8, 0.95), eps=1e-6),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
}


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_an_optimizer_survives_the_way_to_settings_and_back(rule: str) -> None:
    torch.manual_seed(0)
    model, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias]}]
    optimizer = OPTIMIZERS[rule](groups)
    settings, indices = settings_of_torch(optimizer, _trained(model))
    assert settings.rule == rule
    assert indices == (0, 1)
    assert settings.groups[0].lr == 0.1
    other = torch_optimizer(LocalOptimizer(settings, indices), list(twin.parameters()))
    for _ in range(5):
        for module, stepper in ((model, optimizer), (twin, other)):
            stepper.zero_grad()
            module(torch.ones(4, 3)).square().sum().backward()
            stepper.step()
    assert torch.equal(model.weight, twin.weight)
    assert torch.equal(model.bias, twin.bias)


def test_parameters_that_the_optimizer_leaves_out_stay_as_they_are() -> None:
    model = nn.Linear(3, 2)
    settings, indices = settings_of_torch(
        torch.optim.SGD([model.bias], lr=0.1, weight_decay=0.5), _trained(model)
    )
    assert indices == (1, 0)
    assert (settings.groups[1].lr, settings.groups[1].weight_decay) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: torch.optim.RMSprop(p), "RMSprop"),
        (lambda p: torch.optim.Adam(p, amsgrad=True), "amsgrad=True"),
        (lambda p: torch.optim.SGD(p, lr=0.1, maximize=True), "maximize=True"),
    ],
)
def test_optimizers_that_servers_do_not_know_are_refused(make: Any, reason: str) -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ConfigError, match=reason):
        settings_of_torch(make(model.parameters()), _trained(model))


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="none of the model's parameters"):
        settings_of_torch(
            torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1), _trained(nn.Linear(3, 2))
        )
