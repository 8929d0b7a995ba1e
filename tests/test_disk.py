"""The disk: the conformance suite, and what is left on it when a write fails."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from storage_conformance import StorageConformance

from psedge.protocol.disk import Disk
from psedge.protocol.errors import ConfigError


class TestDisk(StorageConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.root = tmp_path / "root"

    def run(self, scenario):
        asyncio.run(scenario(Disk(self.root)))


def test_a_failed_write_leaves_the_old_content_and_no_draft(tmp_path, monkeypatch):
    disk = Disk(tmp_path)
    asyncio.run(disk.write_atomic("f", (b"old",)))

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(disk.write_atomic("f", (b"new",)))
    assert asyncio.run(disk.read("f")) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_content_and_folder_are_forced_to_disk_in_order(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor):
        steps.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def noted_replace(draft, place):
        steps.append("replace")
        return replace(draft, place)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    asyncio.run(Disk(tmp_path).write_atomic("folder/f", (b"x",)))
    folder = tmp_path / "folder"
    root_inode, content_inode, folder_inode = (
        path.stat().st_ino for path in (tmp_path, folder / "f", folder)
    )
    assert steps == [root_inode, content_inode, "replace", folder_inode]


def test_a_draft_left_by_a_crash_is_not_a_file(tmp_path):
    (tmp_path / ".f.1.0.psedge-draft").write_bytes(b"half")
    assert asyncio.run(Disk(tmp_path).names("")) == []


def test_a_draft_of_the_same_name_is_written_over(tmp_path):
    (tmp_path / f".f.{os.getpid()}.0.psedge-draft").write_bytes(b"left by a crash")
    asyncio.run(Disk(tmp_path).write_atomic("f", (b"new",)))
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"new"


def test_folders_that_are_there_are_forced_to_disk_at_their_first_use(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    synced = []
    fsync = os.fsync

    def noted(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    disk = Disk(tmp_path)
    asyncio.run(disk.append("a/b/log", b"1"))
    assert synced == [tmp_path.stat().st_ino, (tmp_path / "a").stat().st_ino]
    asyncio.run(disk.append("a/b/log", b"2"))
    assert len(synced) == 2


def test_a_link_out_of_the_root_is_refused(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"s")
    (root / "out").symlink_to(tmp_path)
    for path in ("out", "out/secret"):
        with pytest.raises(ConfigError, match=f"^{root}/{path} leads out of {root} through a link"):
            asyncio.run(Disk(root).read(path))


def test_files_have_ordinary_permissions(tmp_path):
    asyncio.run(Disk(tmp_path).write_atomic("f", (b"x",)))
    (tmp_path / "g").write_bytes(b"x")
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "g").stat().st_mode


def test_a_new_name_is_forced_to_disk_with_the_first_sync_and_again_after_a_removal(
    tmp_path, monkeypatch
):
    synced = []
    fsync = os.fsync

    def noted(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    disk, log = Disk(tmp_path), tmp_path / "log"
    asyncio.run(disk.append("log", b"1"))
    monkeypatch.setattr(os, "fsync", noted)
    asyncio.run(disk.sync("log"))
    assert synced == [log.stat().st_ino, tmp_path.stat().st_ino]
    asyncio.run(disk.append("log", b"2"))
    asyncio.run(disk.sync("log"))
    assert synced[2:] == [log.stat().st_ino]
    asyncio.run(disk.remove("log"))
    asyncio.run(disk.append("log", b"3"))
    asyncio.run(disk.sync("log"))
    assert synced[3:] == [log.stat().st_ino, tmp_path.stat().st_ino]
    asyncio.run(disk.write_atomic("f", (b"x",)))
    del synced[:]
    asyncio.run(disk.sync("f"))
    assert synced == [(tmp_path / "f").stat().st_ino]


def test_a_file_that_was_there_before_has_its_name_forced_to_disk_too(tmp_path, monkeypatch):
    (tmp_path / "log").write_bytes(b"left by a process that was killed")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    asyncio.run(Disk(tmp_path).sync("log"))
    assert synced == [(tmp_path / "log").stat().st_ino, tmp_path.stat().st_ino]
