"""Addresses: every form a user may paste, and a clear word about every other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.protocol.address import Address, is_loopback, join_line, parse_join
from psedge.protocol.errors import AddressError


@pytest.mark.parametrize(
    ("text", "url", "token"),
    [
        ("http://Ab_-9@10.0.0.7:7701", "http://10.0.0.7:7701", "Ab_-9"),
        ("http://pc.local", "http://pc.local:7700", ""),
        ("http://pc.local/", "http://pc.local:7700", ""),
        ("  pc.local:80\n", "http://pc.local:80", ""),
        ("tok@pc", "http://pc:7700", "tok"),
        ("HTTP://PC:1", "http://PC:1", ""),
        ("::1", "http://[::1]:7700", ""),
        ("[fe80::1]:7", "http://[fe80::1]:7", ""),
        ("http://tok@[::1]:7702", "http://[::1]:7702", "tok"),
        ("127.0.0.1:65535", "http://127.0.0.1:65535", ""),
    ],
)
def test_understood_forms(text, url, token):
    address = parse_join(text)
    assert address == Address(url, token)
    assert parse_join(join_line(address)) == address


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("https://pc:7700", "psedge speaks http, not https"),
        ("ftp://pc", "not ftp"),
        ("http://pc:7700/v1/join", "must end after the port"),
        ("http://pc:port", "port must be a number"),
        ("pc:0", "port must be a number from 1 to 65535"),
        ("pc:65536", "port must be a number"),
        ("pc:", "port must be a number"),
        ("http://", "no host"),
        ("http://@pc", "token before the @ is empty"),
        ("user:word@pc", "token"),
        ("[pc]:7700", "not an IPv6 address"),
        ("two words", "not a host name"),
        ("http://pc:7700?x=1", "port must be"),
        ("p@c@d", "cannot read|not a host"),
    ],
)
def test_everything_else_is_one_clear_message(text, words):
    with pytest.raises(AddressError, match=words) as caught:
        parse_join(text)
    assert "\n" not in str(caught.value)


@given(st.text())
def test_no_text_raises_anything_else(text):
    try:
        address = parse_join(text)
    except AddressError:
        return
    assert parse_join(join_line(address)) == address


def test_default_port_is_the_callers():
    assert parse_join("pc", default_port=9).url == "http://pc:9"


def test_the_token_stays_out_of_logs():
    assert "secret" not in repr(Address("http://pc:1", "secret"))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.0.2", False),
        ("localhost.example.org", False),
    ],
)
def test_loopback(host, expected):
    assert is_loopback(host) is expected
