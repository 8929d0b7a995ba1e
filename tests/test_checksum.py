"""The checksum of a body: known values, any cut into pieces, and every flipped bit found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.protocol.checksum import BodyCheck, checksum_of
from psedge.protocol.errors import DamagedError


def test_it_is_xxh3_64():
    """Values of the reference implementation (xxHash 0.8)."""
    assert checksum_of(()) == checksum_of((b"", b"")) == "2d06800538d394c2"
    assert checksum_of((b"abc",)) == checksum_of((b"a", bytearray(b"bc"))) == "78af5f94892f3950"


def test_memory_of_wider_items_counts_as_its_bytes():
    assert checksum_of((memoryview(bytes(range(8))).cast("I"),)) == checksum_of((bytes(range(8)),))


@given(st.lists(st.binary(max_size=40), min_size=1), st.data())
def test_pieces_pass_and_a_flipped_bit_does_not(pieces, data):
    whole = b"".join(pieces)
    announced = checksum_of((whole,))
    check = BodyCheck(announced.upper(), len(whole))
    for piece in pieces:
        check.add(piece)
    assert not check.pending
    if not whole:
        return
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    check = BodyCheck(announced, len(whole))
    check.add(damaged[:-1])
    assert check.pending
    with pytest.raises(DamagedError):
        check.add(damaged[-1:])


def test_a_body_without_a_checksum_is_not_checked():
    check = BodyCheck("", 3)
    assert not check.pending
    check.add(b"any")
