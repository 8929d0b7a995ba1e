"""The frame header: golden bytes, its documentation, and that no bytes break it."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import pytest
from golden import FRAMES, check_golden
from hypothesis import example, given
from hypothesis import strategies as st

from psedge.protocol import wire
from psedge.protocol.errors import FrameError
from psedge.protocol.messages import PATHS
from psedge.protocol.wire import (
    HEADER_BYTES,
    Content,
    Flag,
    Header,
    Kind,
    Status,
    decode_header,
    encode_header,
)

DOCUMENT = Path(__file__).parent.parent / "docs" / "wire.md"

u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
headers = st.builds(
    Header,
    kind=st.sampled_from(Kind),
    flags=st.sampled_from([Flag(bits) for bits in range(8)]),
    shard=u32,
    term=u32,
    worker=u32,
    incarnation=u64,
    sequence=u64,
    version=u64,
    clock=u64,
    samples=u32,
    codec=u8,
    lossless=u8,
    reply_codec=u8,
    reply_lossless=u8,
    status=st.sampled_from(Status),
    content=st.sampled_from(Content),
    deltas=u16,
    staleness=u32,
    lag=u32,
    codec_parameters=st.binary(min_size=8, max_size=8),
    receive_microseconds=u32,
    buffers_version=u64,
    position=u64,
    digest=u64,
    payload_bytes=u32,
    buffers_bytes=u32,
    counters_bytes=u32,
)


@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_the_golden_ones(name):
    check_golden(name, encode_header(FRAMES[name]))
    assert decode_header(encode_header(FRAMES[name])) == FRAMES[name]


@given(headers)
def test_header_survives_the_round_trip(header):
    encoded = encode_header(header)
    assert len(encoded) == HEADER_BYTES
    assert decode_header(memoryview(encoded)) == header


@given(st.binary(max_size=2 * HEADER_BYTES))
@example(b"PSEG" + bytes(HEADER_BYTES - 4))
def test_random_bytes_raise_frame_error_only(data):
    with pytest.raises(FrameError):
        decode_header(data)


@given(header=headers, position=st.integers(0, HEADER_BYTES - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(header, position, bit):
    damaged = bytearray(encode_header(header))
    damaged[position] ^= 1 << bit
    with pytest.raises(FrameError):
        decode_header(damaged)


@given(data=st.binary(min_size=HEADER_BYTES - 9, max_size=HEADER_BYTES - 9))
def test_random_fields_under_a_right_checksum_raise_frame_error_only(data):
    body = b"PSEG" + struct.pack("<H", wire.WIRE_VERSION) + data[: HEADER_BYTES - 10]
    frame = body + struct.pack("<I", zlib.crc32(body))
    try:
        header = decode_header(frame)
    except FrameError:
        return
    assert encode_header(header) == frame


@pytest.mark.parametrize(
    "change",
    [
        {"shard": 2**32},
        {"term": 2**32},
        {"worker": -1},
        {"payload_bytes": 2**32},
        {"codec": 256},
        {"deltas": 2**16},
    ],
)
def test_a_field_out_of_range_is_a_frame_error(change):
    fields = {"kind": Kind.PULL, "shard": 0, "worker": 0, "incarnation": 0, **change}
    with pytest.raises(FrameError, match="out of range"):
        encode_header(Header(**fields))


def test_another_wire_version_is_named(monkeypatch):
    frame = encode_header(FRAMES["frame-pull.bin"])
    monkeypatch.setattr(wire, "WIRE_VERSION", 9)
    with pytest.raises(FrameError, match="speaks wire version 4, this psedge speaks 9"):
        decode_header(frame)


def test_body_bytes_counts_all_sections():
    assert FRAMES["frame-exchange.bin"].body_bytes == 17


NAMES = (
    "magic", "wire_version", "kind", "flags", "shard", "term", "worker", "incarnation",
    "sequence", "version", "clock", "samples", "codec", "lossless", "reply_codec",
    "reply_lossless", "status", "content", "deltas", "staleness", "lag", "codec_parameters",
    "receive_microseconds", "buffers_version", "position", "digest", "payload_bytes",
    "buffers_bytes", "counters_bytes", "checksum",
)  # fmt: skip


def documented_fields():
    row = re.compile(r"^\| (\d+) \| (\d+) \| `(\w+)` \| (\w+) \|", re.MULTILINE)
    return [
        (int(offset), int(size), name, kind)
        for offset, size, name, kind in row.findall(DOCUMENT.read_text())
    ]


def test_the_documented_table_is_the_struct():
    kinds = {"B": "u8", "H": "u16", "I": "u32", "Q": "u64", "4s": "bytes", "8s": "bytes"}
    codes = re.findall(r"\d*[A-Za-z]", wire._HEADER.format.replace("4s", "4s "))
    expected, offset = [], 0
    expanded = [
        letter
        for code in codes
        for letter in ([code] if code.endswith("s") else [code[-1]] * int(code[:-1] or 1))
    ]
    for name, letter in zip(NAMES, expanded, strict=True):
        size = struct.calcsize("<" + letter)
        expected.append((offset, size, name, kinds[letter]))
        offset += size
    assert offset == HEADER_BYTES
    assert documented_fields() == expected


def test_the_documented_offsets_hold_the_values():
    """Independent of the struct's format: each field is read from a frame where the table says."""
    header = FRAMES["frame-exchange.bin"]
    frame = encode_header(header)
    for offset, size, name, kind in documented_fields():
        if not hasattr(header, name):
            continue
        raw = frame[offset : offset + size]
        value = getattr(header, name)
        assert (raw if kind == "bytes" else int.from_bytes(raw, "little")) == value, name


def test_the_documented_names_are_the_real_ones():
    text = DOCUMENT.read_text()
    flags = (Flag.GATED, Flag.BUFFERS, Flag.NONFINITE)
    for member in [*Kind, *Status, *Content, *flags]:
        assert re.search(rf"^\| {int(member)} \| `{member.name}` \|", text, re.MULTILINE), member
    assert f"Wire version {wire.WIRE_VERSION}" in text


def test_every_path_is_documented():
    documented = set(re.findall(r"^\| `(/v1/[\w/-]+)` \|", DOCUMENT.read_text(), re.MULTILINE))
    assert documented == set(PATHS)
