"""How long it took until what a fault had stopped went on."""

from __future__ import annotations

from dataclasses import dataclass

from psedge.simulation.outcome import Recovery


@dataclass(slots=True)
class _Open:
    """host: whose pushes are awaited; None awaits anyone's."""

    at: float
    node: str
    host: str | None


class Recoveries:
    """Watches pushes come back. Times are virtual seconds."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._closed: list[Recovery] = []

    def struck(self, at: float, node: str, *, serves: bool) -> None:
        """A process was stopped: of a worker, whose pushes are awaited, or of a server, after whose
        loss anyone's are."""
        self._open.append(_Open(at, node, None if serves else node))

    def pushed(self, at: float, host: str, began: float) -> None:
        """A push of a worker that began some time ago was answered."""
        back = [fault for fault in self._open if _ends(fault, host, began)]
        for fault in back:
            self._closed.append(Recovery(fault.at, fault.node, _what(fault), at - fault.at))
            self._open.remove(fault)

    def all(self) -> tuple[Recovery, ...]:
        """In the order of the faults; without seconds where nothing came back."""
        missing = [Recovery(fault.at, fault.node, _what(fault), None) for fault in self._open]
        return tuple(sorted([*self._closed, *missing], key=lambda one: (one.at, one.node)))


def _ends(fault: _Open, host: str, began: float) -> bool:
    """Whether an answered push shows that what a fault stopped goes on."""
    if fault.host is None:
        # The answer to an earlier push may have been on its way when the server was struck.
        return began >= fault.at
    return fault.host == host


def _what(fault: _Open) -> str:
    return "training" if fault.host is None else f"pushes of {fault.host}"
