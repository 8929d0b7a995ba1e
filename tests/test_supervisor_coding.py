"""How a run's `[compression]` section reaches servers and workers, and what comes back of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from supervisor_rig import Rig, run

from psedge.protocol import messages
from psedge.protocol.errors import RefusedError
from psedge.protocol.layout import TensorSlice
from psedge.protocol.shards import Assignment, GroupSettings, OptimizerSettings


def rig_with(folder: Path, compression: dict[str, Any], **sections: Any) -> Rig:
    return Rig(folder, sections={"compression": compression, **sections})


def assignments(rig: Rig) -> list[Assignment]:
    return [
        hosted.shard.assignment for service in rig.services for hosted in service._hosted.values()
    ]


def test_servers_and_workers_hear_the_same(tmp_path: Path) -> None:
    async def story() -> None:
        rig = rig_with(tmp_path, {"push": "q4", "pull": "q8", "rounding": "stochastic"}, seed=7)
        await rig.started()
        joined = await rig.join("b", 2)
        coding = joined.coding
        assert (coding.push, coding.pull, coding.chain) == ("q4", "q8", "worker")
        assert (coding.rounding, coding.seed) == ("stochastic", 7)
        assert [each.coding for each in assignments(rig)] == [coding, coding]
        assert [shard.tensors for shard in joined.shards] == [
            (TensorSlice(0, 4, 2),), (TensorSlice(0, 6, 2),),
        ]  # fmt: skip
        assert [shard.slice for shard in joined.shards] == [each.slice for each in assignments(rig)]
        assert not any("one chain" in note for note in rig.notes)

    run(story())


def test_bsp_has_one_chain_for_all(tmp_path: Path) -> None:
    async def story() -> None:
        rig = rig_with(tmp_path, {"pull": "q8"}, sync={"mode": "bsp"})
        await rig.started()
        assert {each.coding.chain for each in assignments(rig)} == {"shared"}
        assert {each.coding.publish_every for each in assignments(rig)} == {1}
        assert any("one chain of pulls for all" in note for note in rig.notes)

    run(story())


def test_workers_hear_of_the_stages_that_every_server_can_undo(tmp_path: Path) -> None:
    async def story() -> None:
        rig = rig_with(tmp_path, {})
        await rig.register(0, lossless=("none", "lz4", "zstd", "deflate"))
        await rig.register(1, lossless=("none", "zstd", "deflate"))
        with pytest.raises(RefusedError, match="1 more of 2 workers"):
            await rig.join("a", 1)
        assert (await rig.join("b", 2)).lossless == ("none", "zstd", "deflate")

    run(story())


def test_with_momentum_correction_servers_have_no_momentum(tmp_path: Path) -> None:
    async def story() -> None:
        rig = rig_with(
            tmp_path,
            {"push": "top-k", "momentum_correction": True},
            optimizer={"kind": "sgd", "momentum": 0.9},
        )
        model = rig.supervisor.state.model
        assert model is not None
        model.settings = OptimizerSettings("sgd", (GroupSettings(lr=0.1, momentum=0.75),))
        await rig.started()
        assert (await rig.join("b", 2)).coding.momentum_correction == 0.75
        for each in assignments(rig):
            assert {group.momentum for group in each.optimizer.groups} == {0.0}

    run(story())


def test_that_a_worker_uses_the_configs_codecs_is_no_news(tmp_path: Path) -> None:
    async def story() -> None:
        rig = rig_with(tmp_path, {"push": "q4"})
        await rig.started()
        rig.notes.clear()
        for coding in ("q4 / identity", "q4+zstd / identity"):
            message = messages.Heartbeat(0, 1, coding=coding, coding_reason=f"a link for {coding}")
            await rig.ask(messages.HEARTBEAT, message)
        assert rig.notes == ["worker a: a link for q4+zstd / identity"]

    run(story())


def test_a_change_of_a_workers_coding_is_noted_with_its_reason(tmp_path: Path) -> None:
    async def story() -> None:
        rig = rig_with(tmp_path, {})
        await rig.started()

        async def beat(coding: str, reason: str) -> None:
            message = messages.Heartbeat(0, 1, coding=coding, coding_reason=reason)
            await rig.ask(messages.HEARTBEAT, message)

        rig.notes.clear()
        await beat("identity / identity", "a link of 9 Gb/s")
        await beat("q4 / q8", "a link of 20 Mb/s")
        await beat("q4 / q8", "a link of 20 Mb/s")
        await beat("identity / identity", "a link of 9 Gb/s")
        assert rig.notes == [
            "worker a: a link of 20 Mb/s",
            "worker a: a link of 9 Gb/s",
        ]
        status = await rig.status()
        row = next(worker for worker in status.workers if worker.name == "a")
        assert (row.coding, row.coding_reason) == ("identity / identity", "a link of 9 Gb/s")

    run(story())
