"""Calls: typed questions and answers, bounded, over any Transport."""

from __future__ import annotations

import asyncio
import contextlib
import resource

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.protocol.address import Address
from psedge.protocol.calls import (
    REPLY_LIMIT_BYTES,
    answer,
    ask,
    ask_bytes,
    bounded,
    decoded,
    read_body,
    read_message,
)
from psedge.protocol.errors import FrameError, RefusedError
from psedge.protocol.messages import PATHS, Acknowledged, Hello, HelloReply

ADDRESS = Address("http://pc:7700", "tok")
HELLO = Hello("0.1.0", 1)


class Echoing:
    """A Transport whose every call answers with fixed bytes and remembers what was asked."""

    def __init__(self, reply: bytes, announced: int | None = None) -> None:
        self.reply = reply
        self.announced = len(reply) if announced is None else announced
        self.asked = None

    async def call(self, url, path, parts, *, allocate, timeout_seconds, token=""):
        self.asked = (url, path, b"".join(parts), timeout_seconds, token)
        buffer = allocate(self.announced)
        buffer[:] = self.reply
        return buffer


class Body:
    path = "/v1/hello"
    peer = "127.0.0.1"
    token = ""

    def __init__(self, content: bytes, length: int | None = None) -> None:
        self.content = content
        self.length = len(content) if length is None else length

    async def read_into(self, buffer):
        buffer[:] = self.content


def test_ask_sends_json_and_types_the_answer():
    transport = Echoing(b'{"psedge":"9","wire":1,"supervisor":true,"run":"r"}')
    reply = asyncio.run(ask(transport, ADDRESS, "/v1/hello", HELLO, HelloReply))
    assert reply == HelloReply("9", 1, True, "r")
    url, path, body, timeout, token = transport.asked
    assert (url, path, timeout, token) == ("http://pc:7700", "/v1/hello", 10.0, "tok")
    assert msgspec.json.decode(body, type=Hello) == HELLO


@pytest.mark.parametrize("reply", [b"", b"<html>", b"{}", b'{"psedge":1}', b"[" * 100_000])
def test_a_wrong_answer_is_a_frame_error_naming_who_gave_it(reply):
    with pytest.raises(FrameError, match="http://pc:7700/v1/hello: not a valid HelloReply"):
        asyncio.run(ask(Echoing(reply), ADDRESS, "/v1/hello", HELLO, HelloReply))


def test_an_answer_too_long_is_refused_before_memory_is_taken():
    transport = Echoing(b"", announced=REPLY_LIMIT_BYTES + 1)
    with pytest.raises(FrameError, match="more than"):
        asyncio.run(ask(transport, ADDRESS, "/x", HELLO, HelloReply))


def test_ask_bytes_keeps_bytes_and_limit():
    reply = asyncio.run(
        ask_bytes(Echoing(b"\0\1"), ADDRESS, "/x", (b"a", b"b"), limit_bytes=2, timeout_seconds=1.0)
    )
    assert bytes(reply) == b"\0\1"
    with pytest.raises(FrameError):
        bounded(1)(2)


def test_messages_are_read_as_their_type():
    assert asyncio.run(read_message(Body(b'{"psedge":"1","wire":2}'), Hello)) == Hello("1", 2)
    assert asyncio.run(read_message(Body(b""), Acknowledged)) == Acknowledged()


@pytest.mark.parametrize("content", [b"{", b"null", b'{"psedge":"1"}', b'{"psedge":"\xff"}', b""])
def test_a_body_that_is_no_such_message_is_a_frame_error(content):
    with pytest.raises(FrameError, match="/v1/hello: not a valid Hello"):
        asyncio.run(read_message(Body(content), Hello))


def test_a_body_over_the_limit_is_refused_unread():
    with pytest.raises(RefusedError) as caught:
        asyncio.run(read_message(Body(b"", length=2**40), Hello))
    assert caught.value.code == "too-large"
    with pytest.raises(RefusedError):
        asyncio.run(read_body(Body(b"123"), 2))
    assert bytes(asyncio.run(read_body(Body(b"123"), 3))) == b"123"


def test_answer_is_what_decoded_reads():
    (body,) = answer(HELLO).parts
    assert decoded(body, Hello, "x") == HELLO


@given(data=st.binary(max_size=100), path=st.sampled_from(sorted(PATHS)))
def test_random_bytes_raise_frame_error_only(data, path):
    for type_ in PATHS[path]:
        if type_ is None:
            continue
        with contextlib.suppress(FrameError):
            assert isinstance(decoded(data, type_, path), type_)


def test_a_body_that_is_only_announced_takes_no_memory():
    class Liar(Body):
        async def read_into(self, buffer):
            raise FrameError("the body ended early")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((FrameError, RefusedError)):
        asyncio.run(read_body(Liar(b"", length=8 * 2**30), 2**40))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "kB"
