"""What every fault has: when it strikes, what it says of itself."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from psedge.simulation.faults.hosts import Target, label

Seconds = Annotated[float, Meta(ge=0)]
Span = Annotated[float, Meta(gt=0)]
#: 1 changes nothing, 3 is three times slower.
Slowness = Annotated[float, Meta(ge=1)]
Probability = Annotated[float, Meta(ge=0, le=1)]


class BaseFault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """Strikes `at` virtual seconds after the start, or `delay` seconds `after` a moment."""

    at: Seconds | None = None
    after: str = ""
    delay: Seconds = 0.0

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)

    @property
    def lasts(self) -> float | None:
        """Seconds until it ends by itself; None if it never does, or is over at once."""
        return None

    @property
    def where(self) -> str:
        """Whom it strikes, as a timeline shows it."""
        raise NotImplementedError

    def what(self) -> str:
        """What it does, as a timeline shows it beside whom it strikes."""
        raise NotImplementedError

    def describe(self) -> str:
        """One sentence: when, whom, what."""
        return f"{self.when()}, {self.where}: {self.what()}"

    def when(self) -> str:
        if self.at is not None:
            return f"at {self.at:g} s"
        delay = f"{self.delay:g} s " if self.delay else ""
        return f"{delay}after {self.after}"

    def over(self) -> str:
        """What a timeline says at its end."""
        return f"{self.kind} is over"


class HostFault(BaseFault, frozen=True):
    """on: the hosts that it strikes, all at the same time."""

    on: Target

    @property
    def where(self) -> str:
        return label(self.on)


class LastingFault(HostFault, frozen=True, kw_only=True):
    """seconds: until everything is as before; absent: for good."""

    seconds: Span | None = None

    @property
    def lasts(self) -> float | None:
        return self.seconds

    def _for(self) -> str:
        return for_seconds(self.seconds)


class Outage(HostFault, frozen=True, kw_only=True):
    """restart_after: seconds until the process is started again; absent: never."""

    restart_after: Span | None = None

    @property
    def lasts(self) -> float | None:
        return self.restart_after

    def over(self) -> str:
        return "started again"

    def _back(self) -> str:
        after = self.restart_after
        return "" if after is None else f", started again {after:g} s later"


def for_seconds(seconds: float | None) -> str:
    return " for good" if seconds is None else f" for {seconds:g} s"
