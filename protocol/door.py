"""The door of a node: who may come in, and to which handler.

On loopback the door is open. Off loopback every request shows the token that the server made at
its first start; it is kept in a file that only its owner reads and is part of the join line.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from psedge.protocol.errors import ConfigError, RefusedError
from psedge.protocol.ports import Handler, Incoming, Reply

TOKEN_FILE = "token"  # noqa: S105
_TOKEN_BYTES = 16
_TOKEN_LIMIT_BYTES = 256


class Door:
    """A handler that checks the token, then passes a request on to the handler of its path."""

    def __init__(self, routes: Mapping[str, Handler], *, token: str | None) -> None:
        """routes: handlers by path, looked up at each request. token: None leaves the door open."""
        if token == "":
            raise ValueError("an empty token would let everybody in; None says so on purpose")
        self._routes = routes
        self._token = None if token is None else token.encode()

    async def __call__(self, incoming: Incoming) -> Reply:
        """Raises RefusedError forbidden or not-found before anything of the body is read."""
        if self._token is not None and not self._opens(incoming.token):
            raise RefusedError(
                "forbidden", "wrong or missing token: use the join line that the server printed"
            )
        handler = self._routes.get(incoming.path)
        if handler is None:
            raise RefusedError("not-found", f"this psedge node has nothing at {incoming.path}")
        return await handler(incoming)

    def _opens(self, token: str) -> bool:
        assert self._token is not None
        # Comparing in constant time tells a guesser nothing about how much was right.
        return hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token)


def load_or_make_token(folder: Path) -> str:
    """The token kept in `folder`, made at first use; two processes at once agree on one.

    Raises ConfigError when the file can be read by others, is not a plain file, or is damaged.
    """
    path = folder / TOKEN_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make_token(path)
        return _load_token(path)
    except OSError as error:
        raise ConfigError(
            f"cannot keep the server's token in {path}: {error.strerror or error}"
        ) from error


def _make_token(path: Path) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(_TOKEN_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, a link never replaces the token that another process made meanwhile.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _load_token(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path} is not a plain file: remove it, a new one will be made")
        if status.st_mode & 0o077:
            raise ConfigError(
                f"others can read the server's token in {path}: "
                f"run `chmod 600 {path}`, or remove the file to have a new token made"
            )
        content = file.read(_TOKEN_LIMIT_BYTES)
    token = content.decode("ascii", "replace").strip()
    if len(token) < _TOKEN_BYTES or not all(c.isalnum() or c in "_-" for c in token):
        raise ConfigError(f"{path} holds no token: remove it, a new one will be made")
    return token
