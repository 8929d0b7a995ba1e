"""What ends a worker's request early, and which refusals mean it."""

from __future__ import annotations

from psedge.protocol.errors import AddressError, ModelError, PsedgeError, RefusedError


class Rejoin(PsedgeError):  # noqa: N818
    """The servers do not know this worker (any more): it has to join again."""


class StopTraining(PsedgeError):  # noqa: N818
    """The run ends now; the message says why."""


_KINDS: dict[str, type[PsedgeError]] = {
    "unknown-worker": Rejoin,
    "stopped": StopTraining,
    "model-differs": ModelError,
    "forbidden": AddressError,
    "version-differs": AddressError,
}


def consequence_of(error: RefusedError) -> PsedgeError:
    """The error that a refusal's code stands for; itself if it stands for none."""
    kind = _KINDS.get(error.code)
    return error if kind is None else kind(str(error))
