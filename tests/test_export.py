"""A run folder read back, and files that plain torch loads."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from psedge.config import OBJECT
from psedge.export import export, load_run
from psedge.measure import measure
from psedge.protocol.disk import Disk
from psedge.protocol.errors import ConfigError, ModelError
from psedge.protocol.layout import Layout, TensorSpec
from psedge.protocol.shards import GroupSettings, OptimizerSettings
from psedge.supervisor.checkpoint import CheckpointMeta, CheckpointStore
from psedge.toml_config import load_config, to_toml

LAYOUT = Layout((
    TensorSpec("0.weight", (3, 2), "float32", "parameter", 0),
    TensorSpec("0.bias", (3,), "float32", "parameter", 6),
    TensorSpec("1.weight", (3,), "float32", "parameter", 9),
    TensorSpec("1.bias", (3,), "float32", "parameter", 12),
    TensorSpec("1.running_mean", (3,), "float32", "buffer", 0),
    TensorSpec("1.running_var", (3,), "float32", "buffer", 3),
    TensorSpec("1.num_batches_tracked", (), "int64", "counter", 0),
))  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run of a small model with BatchNorm."""
    meta = CheckpointMeta(
        psedge="0.1.0", run="demo", samples=40, layout=LAYOUT, groups=(0, 0, 0, 0),
        settings=OptimizerSettings("sgd", (GroupSettings(0.1),)),
    )  # fmt: skip
    vectors = {
        "parameters": np.arange(15, dtype=np.float32),
        "buffers": np.arange(1, 7, dtype=np.float32),
        "counters": np.frombuffer(np.int64(9).tobytes(), np.uint8),
        "frozen": np.zeros(0, np.uint8),
    }
    run = tmp_path / "run"
    asyncio.run(CheckpointStore(Disk(run), 2, pytest.fail).save(meta, vectors))
    (run / "config.toml").write_text(to_toml(load_config({"name": "demo"})))
    (run / "result.json").write_text(json.dumps({"test_accuracy": 0.9}))
    return run


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.pth"])
def test_plain_torch_loads_the_model(folder: Path, tmp_path: Path, name: str) -> None:
    output = export(load_run(folder), tmp_path / "new" / name)
    if name.endswith(".safetensors"):
        state = safetensors.torch.load_file(output)
    else:
        state = torch.load(output, weights_only=True)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model.load_state_dict(state)
    assert torch.equal(model[0].weight, torch.arange(6.0).reshape(3, 2))
    assert model[1].num_batches_tracked.item() == 9


def test_a_run_is_read_back(folder: Path) -> None:
    run = load_run(folder)
    assert run.experiment.name == "demo"
    assert run.result == {"test_accuracy": 0.9}
    assert run.checkpoint.samples == 40
    assert list(run.state_dict()["1.running_var"]) == [4.0, 5.0, 6.0]


def test_a_run_without_an_end_has_no_result(folder: Path) -> None:
    (folder / "result.json").unlink()
    assert load_run(folder).result == {}


@pytest.mark.parametrize("place", ["model.factory", "model.loss", "data.dataset"])
def test_a_run_of_python_objects_can_be_exported_but_not_measured(
    place: str, folder: Path, tmp_path: Path
) -> None:
    config = {"model": {"factory": "mlp"}, "data": {"dataset": "digits"}}
    experiment = load_config(config, [f"{place}='{OBJECT}'"])
    (folder / "config.toml").write_text(to_toml(experiment))
    run = load_run(folder)
    export(run, tmp_path / "model.pt")
    with pytest.raises(
        ConfigError, match="brought its own model, loss or data set: take the model"
    ):
        measure(run, data=tmp_path)


def test_mistakes_are_one_clear_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere is no run folder"):
        load_run(tmp_path / "nowhere")
    run = load_run(folder)
    with pytest.raises(ConfigError, match=r"must end in \.safetensors, \.pt or \.pth"):
        export(run, tmp_path / "model.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        export(run, tmp_path / "file" / "model.pt")
    damaged = folder / "checkpoints" / "000000000040" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"no usable checkpoint: .*damaged"):
        load_run(folder)
    (folder / "checkpoints" / "000000000040" / "checkpoint.json").unlink()
    with pytest.raises(ConfigError, match="no usable checkpoint: wait"):
        load_run(folder)


def test_a_model_that_is_not_the_configs_is_one_line(folder: Path) -> None:
    (folder / "config.toml").write_text(
        to_toml(
            load_config(
                {"name": "demo", "model": {"factory": "mlp"}, "data": {"dataset": "digits"}}
            )
        )
    )
    with pytest.raises(ModelError, match=r"not the mlp of its config: layers\.0\.weight") as caught:
        measure(load_run(folder), data=folder, device="cpu")
    assert "\n" not in str(caught.value)
