"""Nothing that differs from run to run may leak into a simulation: what could is made to raise.

Python's clocks, its sources of chance and its threads are replaced while a simulation runs. A few
modules are let through, because what they do with the time stays outside of the run: they log, or
show progress to a person.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

#: Modules, with all that is in them, whose reading of a clock or of chance does no harm: they
#: show, log, or lay out in memory, and no simulated code sees what they got.
EXCUSED = (
    "asyncio.base_events",
    "importlib",
    "logging",
    "psedge.simulation.progress",
    "rich",
    "tempfile",
    "torch",
)

_CLOCKS = (
    "clock_gettime",
    "clock_gettime_ns",
    "monotonic",
    "monotonic_ns",
    "perf_counter",
    "perf_counter_ns",
    "process_time",
    "process_time_ns",
    "sleep",
    "thread_time",
    "time",
    "time_ns",
)
_CHANCE = (
    "betavariate",
    "choice",
    "choices",
    "expovariate",
    "gauss",
    "getrandbits",
    "randbytes",
    "randint",
    "random",
    "randrange",
    "sample",
    "seed",
    "shuffle",
    "triangular",
    "uniform",
)
_NUMPY_CHANCE = (
    "choice",
    "normal",
    "permutation",
    "rand",
    "randint",
    "randn",
    "random",
    "random_sample",
    "seed",
    "shuffle",
    "standard_normal",
    "uniform",
)


class LeakError(RuntimeError):
    """Simulated code reached for something that would make two runs of one seed differ."""


@contextlib.contextmanager
def sealed() -> Iterator[None]:
    """Within it, clocks, threads and unseeded chance raise LeakError.

    So does its end, if what reached for them took that for an error of its own and went on.
    """
    leaks: list[LeakError] = []
    with contextlib.ExitStack() as stack:
        for place, names in (
            (time, _CLOCKS),
            (random, _CHANCE),
            (np.random, _NUMPY_CHANCE),
            (secrets, ("randbits", "token_bytes", "token_hex", "token_urlsafe", "choice")),
            (os, ("urandom", "getrandom")),
            (uuid, ("uuid1", "uuid4")),
        ):
            for name in names:
                if hasattr(place, name):
                    stack.enter_context(_forbidden(place, name, leaks))
        stack.enter_context(_forbidden(threading.Thread, "start", leaks))
        stack.enter_context(_seeded(np.random, "default_rng", leaks))
        yield
    if leaks:
        raise leaks[0]


@contextlib.contextmanager
def _replaced(place: Any, name: str, stand_in: Any) -> Iterator[None]:
    original = getattr(place, name)
    setattr(place, name, stand_in)
    try:
        yield
    finally:
        setattr(place, name, original)


def _forbidden(
    place: Any, name: str, leaks: list[LeakError]
) -> contextlib.AbstractContextManager[None]:
    """leaks: receives each error that is raised."""
    original = getattr(place, name)
    title = f"{getattr(place, '__name__', place)}.{name}"

    def refuse(*arguments: Any, **keywords: Any) -> Any:
        if _excused():
            return original(*arguments, **keywords)
        leaks.append(LeakError(f"{title} was called in a simulation, whose runs must not differ"))
        raise leaks[-1]

    return _replaced(place, name, refuse)


def _seeded(
    place: Any, name: str, leaks: list[LeakError]
) -> contextlib.AbstractContextManager[None]:
    """A generator may be made, but only with a seed."""
    original: Callable[..., Any] = getattr(place, name)
    title = f"{place.__name__}.{name}"

    def make(*arguments: Any, **keywords: Any) -> Any:
        if not _excused() and (not arguments or arguments[0] is None) and not keywords.get("seed"):
            leaks.append(LeakError(f"{title} was made without a seed in a simulation"))
            raise leaks[-1]
        return original(*arguments, **keywords)

    return _replaced(place, name, make)


def _excused() -> bool:
    """Whether the module that called the replaced function is one of EXCUSED."""
    caller = str(sys._getframe(2).f_globals.get("__name__", ""))
    return any(caller == name or caller.startswith(f"{name}.") for name in EXCUSED)
