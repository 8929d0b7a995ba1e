"""An address: where a node listens and the token that opens its door, as one line to paste.

The join line `http://TOKEN@host:port` is what `psedge server` prints and what `--join` takes. Its
token stands where a URL has its user name, so the line survives being copied from a terminal.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from psedge.protocol.errors import AddressError

DEFAULT_PORT = 7700

_EXAMPLE = "expected a join line such as http://TOKEN@192.168.1.10:7700"
_JOIN = re.compile(
    r"""
    (?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?
    (?:(?P<token>[^@/]*)@)?
    (?P<host>\[[^\]]*\]|[^:/\[\]]*)
    (?::(?P<port>[^/]*))?
    (?P<path>/.*)?
    """,
    re.VERBOSE,
)
_TOKEN = re.compile(r"[A-Za-z0-9_.~-]+")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Address:
    """url: `http://host:port`, an IPv6 host in brackets. token: empty where the door is open."""

    url: str
    token: str = field(default="", repr=False)


def parse_join(text: str, default_port: int = DEFAULT_PORT) -> Address:
    """Read what a user gave to `--join`.

    Understands `http://TOKEN@host:port`, and the same without scheme, token or port; IPv6 hosts
    with or without brackets. Raises AddressError that says which part is wrong.
    """
    line = text.strip()
    if not line:
        raise AddressError(f"the address is empty: {_EXAMPLE}")
    if _is_ipv6(line):
        line = f"[{line}]"
    match = _JOIN.fullmatch(line)
    if match is None:
        raise AddressError(f"cannot read the address {text.strip()!r}: {_EXAMPLE}")
    scheme = (match["scheme"] or "http").lower()
    if scheme != "http":
        raise AddressError(f"psedge speaks http, not {scheme}: {_EXAMPLE}")
    if match["path"] not in (None, "/"):
        raise AddressError(f"the address must end after the port, not with {match['path']!r}")
    host = _checked_host(match["host"])
    port = _checked_port(match["port"], default_port)
    return Address(url_of(host, port), _checked_token(match["token"]))


def url_of(host: str, port: int) -> str:
    """`http://host:port`, with brackets around an IPv6 host."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def place_of(address: Address) -> tuple[str, int]:
    """Host, without brackets, and port of an address."""
    host, _, port = address.url.removeprefix("http://").rpartition(":")
    return host.strip("[]"), int(port)


def join_line(address: Address) -> str:
    """The line to paste on a worker; `parse_join` reads it back."""
    if not address.token:
        return address.url
    return address.url.replace("://", f"://{address.token}@", 1)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; names other than localhost count as outside."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _checked_host(host: str) -> str:
    if host.startswith("["):
        if not _is_ipv6(host[1:-1]):
            raise AddressError(f"{host} is not an IPv6 address: {_EXAMPLE}")
        return host[1:-1]
    if not host:
        raise AddressError(f"the address names no host: {_EXAMPLE}")
    if not _HOST.fullmatch(host):
        raise AddressError(f"{host!r} is not a host name or IP address: {_EXAMPLE}")
    return host


def _checked_port(port: str | None, default_port: int) -> int:
    if port is None:
        return default_port
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise AddressError(f"the port must be a number from 1 to 65535, not {port!r}")
    return int(port)


def _checked_token(token: str | None) -> str:
    if token is None:
        return ""
    if not _TOKEN.fullmatch(token):
        raise AddressError(
            "the token before the @ is empty or holds characters that no token has: "
            "paste the whole join line that the server printed"
        )
    return token
