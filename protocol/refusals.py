"""Errors of a handler as refusals on the wire, and refusals as errors of the caller.

Every Transport answers and raises through this module, so that all of them refuse alike.
"""

from __future__ import annotations

import logging
from typing import Protocol

import msgspec

from psedge.protocol.errors import (
    DamagedError,
    FrameError,
    PsedgeError,
    RefusedError,
    UnreachableError,
    UserError,
)
from psedge.protocol.messages import Refusal
from psedge.protocol.ports import Buffer, Handler, Incoming, Reply

#: Longest explanation that is read from a peer that refuses.
REFUSAL_LIMIT_BYTES = 2**16

_STATUS_OF_CODE = {
    "bad-frame": 400,
    "bad-request": 400,
    "conflict": 409,
    "damaged": 400,
    "forbidden": 403,
    "model-differs": 409,
    "not-found": 404,
    "not-primary": 409,
    "not-ready": 503,
    "stale-term": 409,
    "stopped": 410,
    "too-large": 413,
    "unknown-worker": 409,
    "version-differs": 409,
}
_log = logging.getLogger(__name__)


class CheckedIncoming(Incoming, Protocol):
    """A request whose body carries a checksum, perhaps."""

    async def check_rest(self) -> None:
        """Read what the handler left of a body with a checksum.

        Raises DamagedError if the body is not as it was sent, FrameError if it ends early.
        """
        ...


async def reply_or_refusal(handler: Handler, incoming: CheckedIncoming) -> Reply:
    """What `handler` answers; any error of it as a refusal."""
    try:
        return await handler(incoming)
    except FrameError as error:
        return refusal_of(await _damage_or(error, incoming), incoming.path)
    except Exception as error:
        return refusal_of(error, incoming.path)


def refusal_of(error: Exception, path: str) -> Reply:
    """An error as the reply that tells the caller of it; what is no PsedgeError is logged."""
    if isinstance(error, RefusedError):
        return _refusal(error.code, str(error))
    if isinstance(error, DamagedError):
        return _refusal("damaged", str(error))
    if isinstance(error, FrameError):
        return _refusal("bad-frame", str(error))
    if isinstance(error, UserError):
        return _refusal("bad-request", str(error))
    if isinstance(error, PsedgeError):
        return _refusal("internal", str(error))
    _log.error("a request to %s failed", path, exc_info=error)
    return _refusal("internal", f"{type(error).__name__} while answering; see its log")


def over_body_limit(length: int, limit_bytes: int) -> RefusedError:
    """Says that a request's body is too long to be read at all."""
    return RefusedError(
        "too-large", f"the body is {length} bytes, more than the {limit_bytes} allowed"
    )


def error_of_refusal(body: Buffer, url: str, status: str) -> PsedgeError:
    """What a caller raises who got an HTTP error: RefusedError if its body is a refusal.

    A request that was damaged on its way was never taken in, so it counts as lost: an
    UnreachableError, after which everyone tries again. FrameError: this is no psedge node.
    status: in words, such as `404 Not Found`.
    """
    try:
        refusal = msgspec.json.decode(body, type=Refusal)
    except (msgspec.MsgspecError, ValueError):
        return FrameError(f"{url} answered HTTP {status}, not as a psedge node does")
    if refusal.code == "damaged":
        return UnreachableError(f"the request to {url} was damaged on its way")
    return RefusedError(refusal.code, refusal.message)


async def _damage_or(error: FrameError, incoming: CheckedIncoming) -> FrameError:
    """Why a handler could make no sense of a body: it was damaged, or it was never any good."""
    try:
        await incoming.check_rest()
    except DamagedError as damage:
        return damage
    except FrameError:
        pass
    return error


def _refusal(code: str, message: str) -> Reply:
    body = msgspec.json.encode(Refusal(code, message))
    return Reply((body,), status=_STATUS_OF_CODE.get(code, 500))
