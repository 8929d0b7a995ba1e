"""What a backup makes of the entries that a primary sends it."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from codec_rig import gradient
from replica_rig import ALL, Copies, assert_equal, delivered, reign, twin_of
from shard_cluster import frame_of, pushed, vector

from psedge.compression.codec import EncoderState
from psedge.compression.coder import Coder
from psedge.compression.lossless import available, stage_named
from psedge.compression.table import PUSH_CODECS, codec_named
from psedge.protocol.errors import FrameError
from psedge.protocol.layout import TensorSlice
from psedge.protocol.log_entry import Entry, EntryKind
from psedge.protocol.replicas import Append, Position
from psedge.protocol.shards import (
    Assignment,
    GroupSettings,
    Member,
    Members,
    OptimizerSettings,
    ScheduleSettings,
    Segment,
    SyncSettings,
)
from psedge.server.replica import Replica
from psedge.server.shard import Shard

#: Elements of the shard below that codecs see, and all of them.
CODED, ELEMENTS = 4096, 5000
STAGES = available()


def coded_shard(mode: Any) -> Shard:
    plan = Assignment(
        0, 0, ELEMENTS, 0, 0, 0,
        segments=(Segment(0, 3000, 0), Segment(3000, ELEMENTS, 1)),
        optimizer=OptimizerSettings(
            "adamw", (GroupSettings(lr=0.1, weight_decay=0.1), GroupSettings(lr=0.2))
        ),
        schedule=ScheduleSettings("one-cycle", total=9000),
        sync=SyncSettings(mode, staleness_bound=9),
        tensors=(TensorSlice(0, CODED, 64),),
    )  # fmt: skip
    return Shard(plan, gradient(0, ELEMENTS), np.zeros(0, np.float32), b"")


@pytest.mark.parametrize("mode", ["bsp", "ssp", "asp"])
def test_what_codecs_make_is_the_same_bit_for_bit_everywhere(mode: str) -> None:
    """Each worker has another codec, and there are more of them than a round keeps payloads."""
    primary, backup = Replica(coded_shard(mode), 0, keeps=False), Replica(coded_shard(mode), 1)
    who = reign(1, 1, 0, (1,))
    primary.follow(who)
    backup.follow(who)
    workers = len(PUSH_CODECS)
    primary.set_members(Members(1, tuple(Member(worker, 1) for worker in range(workers))))
    for sequence in (1, 2, 3):
        for worker, name in enumerate(PUSH_CODECS):
            codec, stage = codec_named(name), stage_named(STAGES[worker % len(STAGES)])
            coder = Coder(codec, stage, primary.shard.piece)
            values = gradient(10 * worker + sequence, ELEMENTS)
            parts = coder.encode(values, np.zeros_like(values), EncoderState(worker)).parts
            frame = frame_of(
                worker, 1, sequence, primary.shard.version, 5, b"".join(parts), coder=coder
            )
            primary.push(pushed(frame, primary.shard), [frame])
            entries = primary.entries_after(backup.at, ALL)
            assert entries is not None
            answer, _ = backup.append(Append(0, 1, backup.at), delivered(entries))
            assert (answer.outcome, answer.at) == ("appended", primary.at)
            assert_equal(primary, backup)
            primary.heard(1, answer.at)
    assert primary.shard.version == (3 if mode == "bsp" else 3 * workers)
    assert_equal(primary, twin_of(primary))


def linked() -> tuple[Copies, Replica, Replica]:
    copies = Copies()
    copies.join(0)
    copies.join(1)
    copies.send_all()
    return copies, copies.replicas[0], copies.replicas[1]


def test_entries_that_come_twice_are_applied_once() -> None:
    copies, primary, backup = linked()
    before = primary.at
    for _ in range(3):
        copies.push(0, 1.0)
    entries = primary.entries_after(before, ALL)
    assert entries is not None
    message = Append(0, 1, before)
    assert len(backup.append(message, delivered(entries[:2]))[1]) == 2
    answer, now = backup.append(message, delivered(entries))
    assert (answer.outcome, answer.at, len(now)) == ("appended", primary.at, len(entries) - 2)
    assert backup.append(message, delivered(entries[:1]))[0].at == primary.at
    assert_equal(primary, backup)


def test_entries_after_a_gap_are_not_taken() -> None:
    copies, primary, backup = linked()
    before = backup.at
    copies.push(0, 1.0)
    missed = primary.at
    copies.push(0, 1.0)
    entries = primary.entries_after(missed, ALL)
    assert entries is not None
    answer, now = backup.append(Append(0, 1, missed), delivered(entries))
    assert (answer.outcome, answer.at, now) == ("gap", before, [])


@pytest.mark.parametrize(
    "wrong",
    [
        [Entry(5, 1, EntryKind.TERM)],
        [Entry(4, 1, EntryKind.TERM)],
        [Entry(4, 2, EntryKind.TERM), Entry(5, 3, EntryKind.MEMBERS, b"{}")],
        [Entry(4, 4, EntryKind.TERM)],
        [Entry(4, 0, EntryKind.DIGEST, bytes(8))],
    ],
)
def test_entries_that_do_not_belong_together_change_nothing(wrong: list[Entry]) -> None:
    _, _, backup = linked()
    assert backup.at == Position(1, 3)
    with pytest.raises(FrameError):
        backup.append(Append(0, 3, backup.at), wrong)
    assert (backup.at, backup.term) == (Position(1, 3), 1)


@pytest.mark.parametrize(
    "kind_and_body",
    [
        (EntryKind.PUSH, bytes(124)),
        (EntryKind.PUSH, frame_of(9, 1, 1, 0, 4, vector(1.0, 2.0))),
        (EntryKind.PUSH, frame_of(0, 1, 1, 0, 4, vector(1.0))),
        (EntryKind.MEMBERS, b"{"),
        (EntryKind.MEMBERS, msgspec.json.encode(Members(0, ()))),
        (EntryKind.DIGEST, bytes(8)),
    ],
)
def test_an_entry_that_cannot_be_applied_shows_that_the_copy_differs(
    kind_and_body: tuple[EntryKind, bytes],
) -> None:
    _, primary, backup = linked()
    at = backup.at
    entry = Entry(at.index + 1, 1, *kind_and_body)
    answer, now = backup.append(Append(0, 1, at), [entry])
    assert (answer.outcome, now) == ("differs", [])
    for before in (primary.at, Position(1, 99)):
        again, _ = backup.append(Append(0, 1, before), ())
        assert again.outcome == "differs", "nothing but an image mends it"
    assert backup.state(0.0).at == Position(), "and nobody is to promote it"
    backup.check_invariants()


def test_a_flipped_bit_is_found_by_the_next_digest_and_mended_by_an_image() -> None:
    copies, primary, backup = linked()
    backup.shard.parameters[1] = np.nextafter(backup.shard.parameters[1], np.float32(9))
    outcomes = []
    for _ in range(10):
        copies.push(0, 1.0)
        answer = copies.send(1)
        outcomes.append(answer.outcome if answer is not None else "")
    assert outcomes.count("differs") == 1
    assert copies.replicas[1] is not backup
    assert_equal(primary, copies.replicas[1])
