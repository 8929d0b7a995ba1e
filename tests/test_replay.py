"""`psedge replay`: real pushes, logged on a real disk, applied once more; damage and mistakes."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import safetensors.numpy
from log_rig import RUN
from replica_rig import fresh_shard, reign
from shard_cluster import frame_of, pushed, vector

from psedge.cli import exit_code
from psedge.protocol.bundle import unpack
from psedge.protocol.disk import Disk
from psedge.protocol.log_entry import Entry, EntryKind, decode_entries, encode_entry
from psedge.protocol.shards import LogSettings, Member, Members, ShardOrder
from psedge.protocol.system_clock import SystemClock
from psedge.protocol.wire import HEADER_BYTES
from psedge.server.replica import Replica, replica_of
from psedge.server.segment import decode_segment_header
from psedge.server.shard import Shard
from psedge.server.store import ServerStore

SETTINGS = LogSettings(sync="group", segment_bytes=10_000, snapshot_bytes=40_000, digest_every=10)


class LoggedShard:
    """A primary without backups whose log goes to a folder; its workers push at random."""

    def __init__(self, folder, mode="asp", seed=0, workers=3):
        self.folder = folder
        self.chance = random.Random(seed)
        shard = fresh_shard(mode)
        shard.assignment = msgspec.structs.replace(shard.assignment, log=SETTINGS)
        self.replica = Replica(shard, 0)
        self.sequences = dict.fromkeys(range(workers), 0)

    async def train(self, pushes):
        store = ServerStore(Disk(self.folder), SystemClock(), print, self.chance.getrandbits)
        await store.open(RUN)
        log = store.log(0, SETTINGS)
        # As the supervisor hands out a new shard: its arrays, and no state yet.
        order, arrays = self.replica.order()
        log.begin(msgspec.structs.replace(order, state=None), arrays)
        self.log = log
        self.write(self.replica.follow(reign(1, 1, 0)))
        members = tuple(Member(worker, 1) for worker in self.sequences)
        self.write(self.replica.set_members(Members(1, members)))
        for _ in range(pushes):
            self.push()
            await log.holds(self.replica.at.index)
        await store.close()

    def write(self, entries):
        self.log.write(entries)
        if self.log.wants_snapshot:
            self.log.snapshot(*self.replica.order())

    def push(self):
        ready = [each for each in self.sequences if self.replica.shard.may_proceed(each)]
        worker = self.chance.choice(ready)
        self.sequences[worker] += 1
        gradient = vector(self.chance.uniform(-1, 1), self.chance.uniform(-1, 1))
        frame = frame_of(
            worker, 1, self.sequences[worker], self.replica.shard.version, 4, gradient,
            buffers=vector(self.chance.random()),
        )  # fmt: skip
        parts = [frame[:HEADER_BYTES], frame[HEADER_BYTES:]]
        _, _, entries = self.replica.push(pushed(frame, self.replica.shard), parts)
        self.write(entries)


@pytest.fixture
def logged(tmp_path):
    shard = LoggedShard(tmp_path / "store")
    asyncio.run(shard.train(700))
    return shard


def replay(capsys, *arguments):
    """Exit code, standard output and standard error of one command."""
    capsys.readouterr()
    code = exit_code(["replay", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def segments(logged):
    return sorted((logged.folder / "shard-0").glob("segment-*"))


def digest_of(path):
    """Index of the first DIGEST in a segment, and where its body lies in the file."""
    content = path.read_bytes()
    _, data = decode_segment_header(memoryview(content))
    at = len(content) - len(data)
    for entry in decode_entries(data):
        at += entry.size
        if entry.kind is EntryKind.DIGEST:
            return entry.index, at - len(entry.body)
    raise AssertionError("there is none")


@pytest.mark.parametrize("mode", ["asp", "bsp"])
def test_a_log_leads_to_the_live_shard_bit_for_bit(tmp_path, capsys, mode):
    logged = LoggedShard(tmp_path / "store", mode)
    asyncio.run(logged.train(700))
    live = logged.replica.shard
    out = tmp_path / "shard.safetensors"
    code, said, err = replay(capsys, logged.folder, "--out", out)
    assert (code, err) == (0, "")
    assert f"shard 0 of run {RUN}" in said
    assert f"to {logged.replica.at.index}, term 1" in said
    assert "checked, all equal" in said
    arrays = safetensors.numpy.load_file(out)
    assert arrays["parameters"].tobytes() == live.parameters.tobytes()
    assert arrays["buffers"].tobytes() == live.buffers.tobytes()
    order, arrays = unpack(out.read_bytes(), ShardOrder)
    assert order.state == live.state()[0]
    assert order.at == logged.replica.at
    again = Shard.restored(order.assignment, order.state, arrays)
    assert again.parameters.tobytes() == live.parameters.tobytes()


@pytest.mark.parametrize("mode", ["asp", "bsp", "ssp"])
@pytest.mark.parametrize("pushes", [1, 50, 431])
def test_recovery_leads_to_the_live_shard_too(tmp_path, mode, pushes):
    """In the middle of a round of `bsp` as well."""
    logged = LoggedShard(tmp_path, mode, seed=pushes)
    asyncio.run(logged.train(pushes))
    store = ServerStore(Disk(tmp_path), SystemClock(), pytest.fail, random.Random(1).getrandbits)
    (found,) = asyncio.run(store.open(RUN))
    replica = replica_of(found.order, found.arrays, found.entries, 5)
    assert replica.at == logged.replica.at
    assert replica.shard.digest() == logged.replica.shard.digest()
    assert replica.shard.members == logged.replica.shard.members


def test_one_shard_and_a_part_of_its_log(logged, capsys, tmp_path):
    last = logged.replica.at.index
    names = sorted(path.name for path in (logged.folder / "shard-0").glob("snapshot-*"))
    older, newer = (int(name[9:29]) for name in names)
    code, said, _ = replay(capsys, logged.folder / "shard-0", "--to", newer - 3)
    assert code == 0
    assert f"{older + 1} to {newer - 3}, term 1" in said
    code, said, _ = replay(capsys, logged.folder, "--shard", 0, "--to", newer + 1)
    assert code == 0
    assert f"{newer + 1} to {newer + 1}, term 1" in said
    for to, why in ((older - 1, "is before that"), (last + 1, f"ends with entry {last}, before")):
        code, _, err = replay(capsys, logged.folder, "--to", to)
        assert code == 2
        assert why in err


def test_a_digest_that_differs_is_said_and_ends_with_1(logged, capsys):
    """As if the log were of other parameters: the entry itself is whole."""
    index, at = digest_of(segments(logged)[1])
    content = bytearray(segments(logged)[1].read_bytes())
    content[at] ^= 1
    term, body = 1, bytes(content[at : at + 8])
    whole = b"".join(map(bytes, encode_entry(Entry(index, term, EntryKind.DIGEST, body))))
    content[at - 28 : at + 8] = whole
    segments(logged)[1].write_bytes(content)
    code, said, err = replay(capsys, logged.folder)
    assert code == 1
    assert err.startswith(f"error: shard 0: entry {index} does not lead where it led when it was ")
    assert "Traceback" not in said + err


def test_a_torn_tail_is_a_note_and_damage_in_the_middle_ends_with_2(logged, capsys):
    path = segments(logged)[-1]
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    code, _, err = replay(capsys, logged.folder)
    assert code == 0
    assert err.startswith("note: the log of shard 0 ends with entry ")
    assert err.count("\n") == 1
    edited = bytearray(content)
    edited[100] ^= 1
    path.write_bytes(edited)
    code, said, err = replay(capsys, logged.folder)
    assert code == 2
    assert "whole entries among them" in err
    assert "digests" in said


def test_what_is_not_read_is_not_told_as_cut_off(logged, capsys):
    path = segments(logged)[-1]
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    _, _, err = replay(capsys, logged.folder)
    assert "bytes from there on are not read" in err
    path.write_bytes(b"")
    _, _, err = replay(capsys, logged.folder)
    assert err.count("\n") == 1
    assert "0 bytes" not in err


def test_a_file_that_cannot_be_read_is_named(logged, capsys, monkeypatch):
    path = segments(logged)[-1]
    path.unlink()
    path.mkdir()
    code, _, err = replay(capsys, logged.folder)
    assert code == 2
    assert err == f"error: {path} cannot be read: Is a directory\n"

    def refused(folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    monkeypatch.setattr(Path, "iterdir", refused)
    code, _, err = replay(capsys, logged.folder)
    assert code == 2
    assert err == f"error: {logged.folder} cannot be read: Permission denied\n"


def test_an_edited_snapshot_is_passed_over_with_a_note(logged, capsys):
    older, newer = sorted((logged.folder / "shard-0").glob("snapshot-*"))
    older.write_bytes(older.read_bytes().replace(b"dampening", b"damqening"))
    code, said, err = replay(capsys, logged.folder)
    assert code == 0
    assert err == f"note: {older} is not used (it has changed since it was written)\n"
    newer.write_bytes(b"")
    code, said, err = replay(capsys, logged.folder)
    assert code == 2
    assert "holds no snapshot to begin with" in err
    assert said == ""


def test_mistakes_of_the_user(logged, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    (logged.folder / "shard-3").mkdir()
    for arguments, why in (
        ([tmp_path / "missing"], "there is no folder"),
        ([tmp_path / "empty"], "is no folder with the log of a shard"),
        ([logged.folder / "shard-0", "--shard", 1], "holds no log of shard 1"),
        ([logged.folder, "--shard", 1], "holds no log of shard 1, only of 0, 3"),
        ([logged.folder, "--to", 5], "--to needs --shard"),
        ([logged.folder, "--out", "x.safetensors"], "--out needs --shard"),
        ([logged.folder, "--shard", 0, "--out", "x.pt"], "ends in .safetensors"),
        (
            [logged.folder, "--shard", 0, "--out", tmp_path / "no" / "x.safetensors"],
            "No such file or directory",
        ),
        ([segments(logged)[0]], "is a file"),
    ):
        code, _, err = replay(capsys, *arguments)
        assert code == 2, arguments
        assert why in err, err
        assert "Traceback" not in err


def test_a_shard_that_cannot_be_read_does_not_hide_the_next_one(logged, capsys, tmp_path):
    logged.folder.joinpath("shard-0").rename(logged.folder / "shard-1")
    (tmp_path / "other disk").mkdir()
    (logged.folder / "shard-0").symlink_to(tmp_path / "other disk")
    code, said, err = replay(capsys, logged.folder)
    assert code == 2
    assert err.startswith(f"error: {logged.folder}/shard-0 leads out of {logged.folder} through a")
    assert err.count("\n") == 1
    assert "digests" in said


def test_replaying_changes_nothing_and_needs_no_torch(logged):
    before = {path: path.read_bytes() for path in logged.folder.rglob("*") if path.is_file()}
    code = (
        "import sys; from psedge.cli import exit_code; "
        f"code = exit_code(['replay', {str(logged.folder)!r}]); "
        "sys.exit(code or ('torch' in sys.modules) * 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done
    assert before == {path: path.read_bytes() for path in before}
