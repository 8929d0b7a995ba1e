"""A log that was damaged on its disk: people are told so, and not that the power was cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from guardian_rig import logged
from tiny_cluster import run

from psedge.protocol.log_entry import decode_entries
from psedge.server.segment import decode_segment_header


def damage(folder: Path, after: int) -> str:
    """Change one bit of a shard's log, in front of so many entries; the file's name."""
    path = max(folder.glob("segment-*"), key=lambda each: each.stat().st_size)
    content = bytearray(path.read_bytes())
    _, data = decode_segment_header(memoryview(bytes(content)))
    sizes = [entry.size for entry in decode_entries(data)]
    content[-1 - sum(sizes[-after:] if after else [])] ^= 1
    path.write_bytes(content)
    return path.name


@pytest.mark.parametrize("after", [0, 1])
def test_the_decision_says_what_is_wrong_with_the_log(tmp_path: Path, after: int) -> None:
    async def story() -> None:
        rig, identity = await logged(tmp_path)
        name = damage(tmp_path / "server-1" / "shard-1", after)
        await rig.restart_with_disk(1, 101, identity)
        await rig.pass_time(5, 0, 1)
        (promoted,) = [note for note in rig.notes if "shard 1: promote" in note]
        status = await rig.status()
        assert any(each.reason in promoted for each in status.journal)
        if after:
            assert "lost, for its log breaks off early: " in promoted
            assert f"shard-1/{name} is damaged at entry " in promoted
            assert "1 whole entry among them" in promoted
        else:
            # What a power cut leaves half-way looks the same.
            assert "the last 1 s before a power cut" in promoted
        for service in rig.services:
            await service.close()

    run(story())
