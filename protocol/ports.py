"""The three doors to the outside world: time, network and disk.

Everything above these interfaces is ordinary `async` code that does not know whether it runs on
a real machine or in the virtual world. Nothing above them reads a clock, opens a socket or writes
a file for itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

Buffer = bytes | bytearray | memoryview

#: Returns an integer of so many random bits, with which a process tells itself from all others.
RandomBits = Callable[[int], int]


class Clock(Protocol):
    """Time as psedge sees it."""

    def now(self) -> float:
        """Monotonic seconds; only differences mean anything."""
        ...

    def timestamp(self) -> float:
        """Seconds since 1970, for people and files only; may jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`, at the earliest."""
        ...


class Incoming(Protocol):
    """One request as a server sees it; its body is read at most once, by the handler."""

    @property
    def path(self) -> str: ...

    @property
    def peer(self) -> str:
        """Host the request came from, without a port."""
        ...

    @property
    def token(self) -> str:
        """The bearer token that the caller presented, or an empty string."""
        ...

    @property
    def length(self) -> int:
        """Bytes in the body, known before the first of them is read."""
        ...

    async def read_into(self, buffer: memoryview) -> None:
        """Fill `buffer` with the next bytes of the body.

        Raises FrameError if the body ends first, DamagedError with the last bytes of a body that
        is not what its sender sent.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler answers: the parts are sent one after the other, without being joined.

    They are sent after the handler has returned, so they must be memory that no one writes to
    any more.
    status: 200, or an HTTP error status whose body is a `Refusal`.
    """

    parts: Sequence[Buffer] = ()
    status: int = 200


Handler = Callable[[Incoming], Awaitable[Reply]]

#: Given the length of a reply's body, returns the buffer of that length to stream it into.
#: Raises FrameError when the length is more than the caller is willing to hold.
Allocate = Callable[[int], memoryview]


class Listener(Protocol):
    """A bound and serving address."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    async def close(self) -> None:
        """Stop accepting, cancel what is in flight, free the port."""
        ...


class Transport(Protocol):
    """Requests out and requests in.

    Requests to one peer may run in parallel and finish in any order. A cancelled call closes its
    connection; whether the peer carried it out is then unknown, as after an UnreachableError.
    """

    async def call(
        self,
        url: str,
        path: str,
        parts: Sequence[Buffer],
        *,
        allocate: Allocate,
        timeout_seconds: float,
        token: str = "",
    ) -> memoryview:
        """Send one request and return the body of its reply.

        url: `http://host:port`, without a path. `parts` must not change until the call returns.
        Raises UnreachableError when there is no connection or no whole reply within
        `timeout_seconds`, or one of the two was damaged on its way; RefusedError when the peer
        refused; FrameError when `allocate` did.
        """
        ...

    async def listen(
        self, host: str, port: int, handler: Handler, *, body_limit_bytes: int
    ) -> Listener:
        """Serve `handler` on an address; port 0 picks a free one.

        A body longer than `body_limit_bytes` is refused before it is read. A PsedgeError raised
        by the handler becomes a `Refusal` for the caller and changes nothing else.
        Raises AddressError when the address cannot be bound.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class AppendFile(Protocol):
    """A file that is appended to again and again, by one writer.

    Both ways to append add all parts in their order. They raise OSError; how much of the parts the
    file holds is unknown then. That it is on disk is promised by `Storage.sync` only.
    """

    def append_now(self, parts: Sequence[Buffer]) -> bool:
        """Append before this returns, if it is a copy into memory and no wait for a device.

        False: nothing was done, and `append` is to be called.
        """
        ...

    async def append(self, parts: Sequence[Buffer]) -> None:
        """Append, however long that takes."""
        ...

    async def close(self) -> None:
        """Give up what it holds of the operating system; nothing may be appended any more."""
        ...


class Storage(Protocol):
    """Files under one root folder; paths are relative, with forward slashes.

    Every method raises OSError as the operating system does, for instance on a full disk.
    """

    async def read(self, path: str) -> bytes:
        """Raises FileNotFoundError when there is no such file."""
        ...

    async def write_atomic(self, path: str, parts: Sequence[Buffer]) -> None:
        """Replace a file as a whole: after a crash there is the old content or the new one.

        Folders on the way are made. Returns after the content is on disk.
        """
        ...

    async def append(self, path: str, data: Buffer) -> None:
        """Add to the end of a file, which is made if there is none; a promise is only in `sync`."""
        ...

    async def open_append(self, path: str) -> AppendFile:
        """The file, which is made if there is none, for whoever appends often."""
        ...

    async def sync(self, path: str) -> None:
        """Afterwards a power cut takes neither the file's name nor what was appended before.

        Raises FileNotFoundError when there is no such file. After any other error nobody knows
        what of the file is on disk: later calls may succeed without what this one failed to write.
        """
        ...

    async def names(self, folder: str) -> list[str]:
        """Names of the files and folders in `folder`, sorted; empty if there is no such folder."""
        ...

    async def remove(self, path: str) -> None:
        """Remove a file, or a folder with all it holds; nothing happens if it is not there."""
        ...
