"""Segments and snapshots: golden bytes, and that damage anywhere in a log is cut off and said."""

from __future__ import annotations

import random
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from golden import GOLDEN_ENTRIES, SEGMENT_FILE, SEGMENT_HEADER, check_golden, golden_segment
from hypothesis import given, settings
from hypothesis import strategies as st
from log_rig import GROUP, RUN, Server, check_recovered, entries, entry, image, run

from psedge.protocol.errors import ConfigError, DamagedError, FrameError
from psedge.protocol.log_entry import Entry, EntryKind, encode_entry
from psedge.protocol.replicas import Position
from psedge.server.log_reader import LogReader
from psedge.server.segment import (
    SegmentHeader,
    decode_segment,
    decode_segment_header,
    encode_segment_header,
    first_of,
    segment_name,
)
from psedge.server.snapshot import decode_snapshot, encode_snapshot, index_of, snapshot_name

HEADER = SegmentHeader(RUN, shard=0, lineage=2, first=11, term_before=3)
DOCS = Path(__file__).parent.parent / "docs" / "log.md"


def bytes_of(some):
    return b"".join(bytes(part) for each in some for part in encode_entry(each))


def segment(some, **changes):
    header = msgspec.structs.replace(HEADER, **changes)
    return encode_segment_header(header) + bytes_of(some)


def reader(index=10, term=3):
    return LogReader(RUN, 0, 2, Position(term, index))


def test_a_segment_is_the_golden_one():
    check_golden(SEGMENT_FILE, golden_segment())
    header, data = decode_segment_header(memoryview(golden_segment()))
    assert header == SEGMENT_HEADER
    found = decode_segment(data, header.first, header.term_before)
    assert [(e.index, e.term, e.kind, bytes(e.body)) for e in found.entries] == [
        (e.index, e.term, e.kind, e.body) for e in GOLDEN_ENTRIES
    ]
    assert found.lost_bytes == 0


def test_the_byte_tables_in_the_docs_are_those_of_the_golden_segment():
    """Offsets and lengths in docs/log.md cover the two headers without gaps, up to their ends."""
    tables = re.findall(r"\| Offset \|.*?\n\n", DOCS.read_text(), re.S)
    lengths = []
    for table in tables:
        rows = re.findall(r"^\| (\d+) \| (\d+) \|", table, re.M)
        at = 0
        for offset, length in rows:
            assert int(offset) == at, table
            at += int(length)
        lengths.append(at)
    nameless = encode_segment_header(msgspec.structs.replace(HEADER, run=""))
    assert lengths == [len(encode_entry(GOLDEN_ENTRIES[0])[0]), len(nameless)]


def test_no_flipped_bit_of_a_header_passes():
    whole = encode_segment_header(HEADER)
    for bit in range(8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            decode_segment_header(memoryview(content))


def test_headers_of_other_files_and_versions():
    with pytest.raises(FrameError, match="no log segment"):
        decode_segment_header(memoryview(b"\x89PNG" + bytes(100)))
    with pytest.raises(FrameError, match="no log segment"):
        decode_segment_header(memoryview(b""))
    whole = encode_segment_header(HEADER)
    for length in range(1, len(whole)):
        with pytest.raises(FrameError, match="it ends before its first entry"):
            decode_segment_header(memoryview(whole[:length]))
    later = bytearray(encode_segment_header(HEADER))
    later[8] = 2
    with pytest.raises(FrameError, match=r"log version 2; this psedge reads version 1"):
        decode_segment_header(memoryview(later))


def test_names_sort_like_the_indexes_in_them():
    assert first_of(segment_name(12)) == 12
    assert index_of(snapshot_name(0)) == 0
    assert segment_name(9) < segment_name(10) < segment_name(2**63)
    for name in ("segment-1.log", "segment-00000000000000000001.log.bak", "store.json", ""):
        assert first_of(name) is None
        assert index_of(name) is None


def test_a_torn_tail_is_cut_at_the_last_whole_entry():
    log = reader()
    content = segment(entries(11, 16, term=3))
    last = len(bytes_of([entry(15, 3, 40)]))
    assert [each.index for each in log.add("a", content[:-5])] == [11, 12, 13, 14]
    assert log.at == Position(3, 14)
    assert log.loss is not None
    assert log.loss.sentence(0) == (
        "the log of shard 0 ends with entry 14: a ends in the middle of entry 15; "
        f"the {last - 5} bytes from there on are cut off"
    )


def test_damage_in_the_middle_is_said_with_what_comes_after_it():
    log = reader()
    content = bytearray(segment(entries(11, 31, term=3)))
    content[len(segment(entries(11, 14, term=3))) + 40] ^= 1
    assert [each.index for each in log.add("a", bytes(content))] == [11, 12, 13]
    log.add("b", segment(entries(31, 36, term=3), first=31))
    assert log.at.index == 13
    assert log.loss is not None
    assert log.loss.after == 16 + 5
    said = log.loss.sentence(0)
    assert "a is damaged at entry 14 (the checksum of log entry 14 does not match)" in said
    assert said.endswith("bytes from there on are cut off, 21 whole entries among them")


def test_a_damaged_length_hides_no_entries_that_come_after():
    content = bytearray(segment(entries(11, 31, term=3)))
    content[len(segment(entries(11, 14, term=3))) + 19] = 0x7F
    log = reader()
    log.add("a", bytes(content))
    assert log.loss is not None
    assert log.loss.after == 16
    assert "a is damaged at entry 14;" in log.loss.sentence(0)


def test_a_write_that_failed_and_was_repeated_loses_nothing():
    log = reader()
    first = log.add("a", segment(entries(11, 16, term=3))[:-5])
    second = log.add("b", segment(entries(13, 18, term=3), first=13))
    assert [each.index for each in first + second] == list(range(11, 18))
    assert log.loss is None


def test_segments_that_do_not_belong_here():
    log = reader()
    assert log.add("old", segment(entries(11, 16, term=3), lineage=1)) == []
    assert log.stale == ["old"]
    assert log.add("new", segment(entries(11, 16, term=3), lineage=3)) == []
    assert log.newer == "new"
    assert log.loss is None
    for change, why in (
        ({"run": "another"}, "is of shard 0 of run 'another'"),
        ({"shard": 7}, "is of shard 7 of run"),
        ({"term_before": 2}, "does not follow entry 10 of term 3"),
        ({"first": 12}, "begins with entry 12, and entry 11 is missing"),
        ({"first": 15}, "begins with entry 15, and 11 to 14 are missing"),
    ):
        log = reader()
        first = change.get("first", 11)
        assert log.add("x", segment(entries(first, first + 3, term=3), **change)) == []
        assert log.loss is not None
        assert why in log.loss.sentence(0)


def test_entries_in_a_wrong_place_end_the_log():
    for wrong in (entry(12, 2), entry(14, 3), entry(11, 3)):
        log = reader()
        taken = log.add("a", segment([entry(11, 3), wrong]))
        assert [each.index for each in taken] == [11]
        assert log.loss is not None
        assert "is in its place" in log.loss.why


def test_damage_before_the_snapshot_does_no_harm():
    log = reader(index=13)
    content = segment(entries(11, 14, term=3))
    assert log.add("a", content[:-60]) == []
    assert log.loss is None
    assert [e.index for e in log.add("b", segment(entries(14, 16, term=3), first=14))] == [14, 15]


def test_an_entry_as_large_as_they_come():
    body = np.random.default_rng(1).bytes(3_000_000)
    log = reader()
    log.add("a", segment([Entry(11, 3, EntryKind.PUSH, body), entry(12, 3)]))
    assert log.at.index == 12
    content = bytearray(segment([Entry(11, 3, EntryKind.PUSH, body), entry(12, 3)]))
    content[2_000_000] ^= 4
    log = reader()
    log.add("a", bytes(content))
    assert log.loss is not None
    assert log.loss.after == 1


def test_a_snapshot_is_a_file_that_safetensors_opens(tmp_path):
    order, arrays = image(12)
    path = tmp_path / snapshot_name(12)
    path.write_bytes(b"".join(encode_snapshot(RUN, 3, order, arrays)))
    loaded = safetensors.numpy.load_file(path)
    assert loaded["parameters"].tolist() == [12, -12]
    snapshot, found = decode_snapshot(path.read_bytes())
    assert (snapshot.run, snapshot.lineage, snapshot.order) == (RUN, 3, order)
    assert found["parameters"].flags.writeable


def test_no_flipped_bit_of_a_snapshot_passes():
    content = bytearray(b"".join(encode_snapshot(RUN, 3, *image(12))))
    for bit in range(8 * len(content)):
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            decode_snapshot(bytes(content))
        content[bit // 8] ^= 1 << bit % 8
    decode_snapshot(bytes(content))
    with pytest.raises(FrameError, match="no snapshot"):
        decode_snapshot(b"")
    with pytest.raises(DamagedError, match="has changed since"):
        decode_snapshot(bytes(content[:-1]))


PLACE = st.floats(0.0, 1.0, exclude_max=True)


@given(st.integers(0, 2**32), PLACE, PLACE, st.booleans(), st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_damage_anywhere_leaves_a_prefix_and_is_said(seed, file, place, cut, bit):
    """Cut any file at any byte, or flip any bit of it: what is recovered was written."""
    chance = random.Random(seed)

    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(GROUP)
        for _ in range(chance.randrange(1, 60)):
            await log.holds(server.write(log, chance.randrange(1, 4), size=chance.randrange(300)))
        await server.store.close()
        total = server.at.index
        names = [name for name in disk.disk.files() if name != "store.json"]
        name = names[int(file * len(names))]
        content = bytearray(await disk.read(name))
        at = int(place * len(content))
        if cut:
            del content[at:]
        else:
            content[at] ^= 1 << bit
        await disk.write_atomic(name, [content])
        await check_damaged(disk, name, bytes(content) if cut else b"", total)

    run(scenario, seed)


async def check_damaged(disk, name, cut, total):
    """cut: what is left of the file, if it was cut."""
    server = Server(disk)
    found = await server.open()
    segments = [each for each in disk.disk.files() if "segment" in each]
    last = name == segments[-1] and cut
    unseen = bool(last) and whole(cut)
    if not found:
        assert server.said
        return
    reached = check_recovered(found[0])
    assert reached == total or server.said or unseen
    assert len(server.said) <= 2
    log = server.log(GROUP, begin=False)
    server.write(log, count=5)
    await server.store.close()
    server = Server(disk)
    assert check_recovered((await server.open())[0]) == reached + 5


def whole(content):
    """Whether a segment ends with the end of an entry."""
    try:
        header, data = decode_segment_header(memoryview(content))
    except FrameError:
        return False
    return decode_segment(data, header.first, header.term_before).lost_bytes == 0


@given(PLACE, st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_damage_of_the_record_of_the_folder_is_refused_in_words(place, bit):
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        content = bytearray(await disk.read("store.json"))
        content[int(place * len(content))] ^= 1 << bit
        await disk.write_atomic("store.json", [content])
        server = Server(disk)
        try:
            await server.open()
        except ConfigError as error:
            assert str(error).startswith("the folder ")  # noqa: PT017
            ways_out = (": name another folder with --store", " and give these logs up")
            assert str(error).endswith(ways_out)  # noqa: PT017
        else:
            # In the white space, or in the name of a key that has a default.
            assert server.store.run == RUN

    run(scenario)
