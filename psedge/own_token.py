"""This user's token: made for the first server that listens on the network, found again later."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from psedge.protocol.address import Address, is_loopback
from psedge.protocol.door import TOKEN_FILE, load_or_make_token


def token_folder() -> Path:
    """Where psedge keeps what only its user may read."""
    return Path.home() / ".config" / "psedge"


def make_token() -> str:
    """The token of this user's servers, made at first use."""
    return load_or_make_token(token_folder())


def with_saved_token(address: Address) -> Address:
    """An address on this machine, with this user's token if the line had none.

    A token is never sent to another machine unless the user pasted it.
    """
    host = urlsplit(address.url).hostname or ""
    if address.token or not is_loopback(host) or not (token_folder() / TOKEN_FILE).exists():
        return address
    return Address(address.url, make_token())
