"""Every error psedge raises, as one tree.

PsedgeError
├── UserError            the user can mend it: one line on the terminal, exit code 2
│   ├── ConfigError      a key, value or flag of the experiment
│   ├── ModelError       a model psedge cannot train, or one that differs from the server's
│   ├── DataError        a data set that is missing, empty or inconsistent
│   └── AddressError     a URL, host or port that is wrong or does not answer
├── TrainingError        the run failed while training: exit code 1
├── FrameError           bytes from the network that break the wire format (the remote is at fault)
│   └── DamagedError     bytes that were changed on their way
├── RefusedError         a peer understood the request and refused it, with a code and a reason
└── UnreachableError     nobody answered: refused connection, reset, or no reply in time

A message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations


class PsedgeError(Exception):
    """Base of every error psedge raises on purpose."""


class UserError(PsedgeError):
    """A mistake its user can mend; never shown with a traceback."""


class ConfigError(UserError):
    """A key, value or flag of an experiment is wrong."""


class ModelError(UserError):
    """A model that psedge cannot train, or that differs from the one on the servers."""


class DataError(UserError):
    """A data set is missing, empty or inconsistent."""


class AddressError(UserError):
    """A URL, host or port is wrong or does not answer."""


class TrainingError(PsedgeError):
    """The run failed while it was training."""


class FrameError(PsedgeError):
    """Received bytes break the wire format; nothing was changed by them."""


class DamagedError(FrameError):
    """A body is not what its sender sent; sending it again helps."""


class RefusedError(PsedgeError):
    """A peer refused a request.

    code: one of `REFUSAL_CODES`, for programs; the message is for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UnreachableError(PsedgeError):
    """No answer from a peer; the request may or may not have been carried out.

    refused: the peer's machine answered that no process listens at that port.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


def not_psedge(url: str, error: Exception) -> AddressError:
    """Something answers at an address, and it is no psedge server: usually a wrong port."""
    return AddressError(
        f"something answers at {url}, but not as psedge does: use the address and port that "
        f"`psedge server` printed ({error})"
    )


#: What a peer can answer instead of doing what was asked; the codes travel on the wire.
REFUSAL_CODES = (
    "bad-frame",
    "bad-request",
    "conflict",
    "damaged",
    "forbidden",
    "model-differs",
    "not-found",
    "not-primary",
    "not-ready",
    "stale-term",
    "stopped",
    "too-large",
    "unknown-worker",
    "version-differs",
    "internal",
)
