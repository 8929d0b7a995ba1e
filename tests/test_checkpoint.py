"""Checkpoints: complete or not there, newest sound one first, a full disk outlived."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from psedge.protocol.disk import Disk
from psedge.protocol.layout import Layout, TensorSpec
from psedge.protocol.ports import Buffer
from psedge.protocol.shards import GroupSettings, OptimizerSettings, ShardState
from psedge.supervisor.checkpoint import CheckpointMeta, CheckpointStore
from psedge.supervisor.data_plan import DataPlan
from psedge.supervisor.membership import Membership

LAYOUT = Layout((
    TensorSpec("weight", (2, 2), "float32", "parameter", 0),
    TensorSpec("mean", (2,), "float32", "buffer", 0),
    TensorSpec("count", (), "int64", "counter", 0),
))  # fmt: skip


class FullDisk(Disk):
    """A disk that refuses to write files of a certain name while it is full."""

    full = ""

    async def write_atomic(self, path: str, parts: Sequence[Buffer]) -> None:
        if self.full and path.endswith(self.full):
            raise OSError(errno.ENOSPC, "No space left on device")
        await super().write_atomic(path, parts)


def _meta(samples: int) -> CheckpointMeta:
    return CheckpointMeta(
        psedge="0.1.0",
        run="demo",
        samples=samples,
        layout=LAYOUT,
        settings=OptimizerSettings("sgd", (GroupSettings(0.1),)),
        groups=(0,),
    )


def _vectors(value: float) -> dict[str, np.ndarray]:
    return {
        "parameters": np.full(4, value, np.float32),
        "buffers": np.full(2, value, np.float32),
        "counters": np.frombuffer(np.int64(value).tobytes(), np.uint8),
        "frozen": np.zeros(0, np.uint8),
        "optimizer.momentum": np.full(4, -value, np.float32),
    }


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "checkpoints").iterdir())


def _save(store: CheckpointStore, *samples: int) -> list[bool]:
    async def save() -> list[bool]:
        return [await store.save(_meta(each), _vectors(each)) for each in samples]

    return asyncio.run(save())


def test_everything_comes_back(tmp_path: Path) -> None:
    plan = DataPlan.shared(10, 30)
    plan.claim(0, 1, 4)
    members = Membership(9.0)
    members.join("pi", 1, 0.0)
    meta = CheckpointMeta(
        psedge="0.1.0", run="demo", samples=7, layout=LAYOUT, version=3, groups=(0,),
        settings=OptimizerSettings("sgd", (GroupSettings(0.1),)), shard_states=(ShardState(),),
        plan=plan.export(), members=members.export(), figures={"seconds": 1.5},
    )  # fmt: skip
    store = CheckpointStore(Disk(tmp_path), 2, pytest.fail)
    assert asyncio.run(store.save(meta, _vectors(7)))
    found = asyncio.run(store.latest())
    assert found is not None
    assert found.folder == "checkpoints/000000000007"
    assert found.vectors.keys() == _vectors(7).keys()
    for name, vector in _vectors(7).items():
        np.testing.assert_array_equal(found.vectors[name], vector)
        assert found.vectors[name].dtype == vector.dtype
        assert found.vectors[name].flags.writeable
    for field in ("layout", "settings", "shard_states", "plan", "members", "figures", "version"):
        assert getattr(found.meta, field) == getattr(meta, field)


def test_the_model_file_is_the_users_model(tmp_path: Path) -> None:
    store = CheckpointStore(Disk(tmp_path), 2, pytest.fail)
    _save(store, 5)
    loaded = safetensors.numpy.load_file(
        tmp_path / "checkpoints" / "000000000005" / "model.safetensors"
    )
    assert loaded.keys() == {"weight", "mean", "count"}
    np.testing.assert_array_equal(loaded["weight"], np.full((2, 2), 5, np.float32))
    assert loaded["count"] == np.int64(5)
    found = asyncio.run(store.latest_model())
    assert found is not None
    assert safetensors.numpy.load(found[1]).keys() == loaded.keys()


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(Disk(tmp_path), 2, pytest.fail)
    _save(store, 5, 10, 15, 1_000_000)
    assert _folders(tmp_path) == ["000000000015", "000001000000"]


def test_a_checkpoint_in_the_same_place_is_replaced(tmp_path: Path) -> None:
    store = CheckpointStore(Disk(tmp_path), 1, pytest.fail)

    async def twice() -> float:
        await store.save(_meta(5), _vectors(1))
        await store.save(_meta(5), _vectors(2))
        found = await store.latest()
        assert found is not None
        return float(found.vectors["parameters"][0])

    assert asyncio.run(twice()) == 2.0


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    store = CheckpointStore(Disk(tmp_path), 1, pytest.fail)
    assert asyncio.run(store.latest()) is None
    assert asyncio.run(store.latest_model()) is None


def test_one_that_a_crash_left_unfinished_is_passed_over_and_removed_later(tmp_path: Path) -> None:
    store = CheckpointStore(Disk(tmp_path), 3, pytest.fail)
    _save(store, 5, 10)
    (tmp_path / "checkpoints" / "000000000010" / "checkpoint.json").unlink()
    found = asyncio.run(store.latest())
    assert found is not None
    assert found.meta.samples == 5
    _save(store, 15)
    assert _folders(tmp_path) == ["000000000005", "000000000015"]


@pytest.mark.parametrize("name", ["optimizer.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_one_falls_back_to_the_older_and_says_so(
    tmp_path: Path, name: str, damage: str
) -> None:
    notes: list[str] = []
    store = CheckpointStore(Disk(tmp_path), 3, notes.append)
    _save(store, 5, 10)
    place = tmp_path / "checkpoints" / "000000000010" / name
    content = place.read_bytes()
    if damage == "gone":
        place.unlink()
    else:
        flipped = content[:-9] + bytes([content[-9] ^ 0x80]) + content[-8:]
        place.write_bytes(content[: len(content) // 2] if damage == "cut" else flipped)
    found = asyncio.run(store.latest())
    assert found is not None
    assert found.meta.samples == 5
    if (name, damage) != ("checkpoint.json", "gone"):
        assert len(notes) == 1
        assert "000000000010 is damaged" in notes[0]
        assert name in notes[0]


def test_a_figure_that_rotted_into_another_is_noticed(tmp_path: Path) -> None:
    notes: list[str] = []
    store = CheckpointStore(Disk(tmp_path), 3, notes.append)
    _save(store, 5, 10)
    place = tmp_path / "checkpoints" / "000000000010" / "checkpoint.json"
    content = place.read_bytes()
    place.write_bytes(content.replace(b'"samples": 10', b'"samples": 18', 1))
    found = asyncio.run(store.latest())
    assert found is not None
    assert found.meta.samples == 5
    assert "has changed since it was written" in notes[0]


def test_a_full_disk_is_said_once_and_leaves_older_checkpoints(tmp_path: Path) -> None:
    notes: list[str] = []
    disk = FullDisk(tmp_path)
    store = CheckpointStore(disk, 1, notes.append)
    assert _save(store, 5) == [True]
    disk.full = "optimizer.safetensors"
    assert _save(store, 10, 15) == [False, False]
    assert len(notes) == 1
    assert "a checkpoint" in notes[0]
    assert "the disk is full" in notes[0]
    assert _folders(tmp_path) == ["000000000005"]
    disk.full = ""
    assert _save(store, 20) == [True]
    assert notes[1:] == ["writing works again: a checkpoint"]
    assert _folders(tmp_path) == ["000000000020"]
