"""With what arguments a killed process comes back to the place that it had.

A pure core. Workers, and servers that joined another, come back with the very arguments they had;
the supervisor has to continue its run, at the address where everybody looks for it.
"""

from __future__ import annotations

from collections.abc import Sequence

_WITH_PARENT, _RESUME = "--with-parent", "--resume"
#: Of one start only: whoever comes back afterwards goes on with the run as it is.
_ONCE = (_WITH_PARENT, "--from-checkpoint")


def arguments_again(arguments: Sequence[str], *, folder: str, port: int) -> list[str]:
    """The arguments for the next start of a process.

    arguments: from `server` or `worker` on. folder, port: of the run and of its supervisor.
    """
    # Whoever started it first does not hold the other end of its standard input any more.
    kept = [argument for argument in arguments if argument not in _ONCE]
    if kept[0] == "worker" or _has(kept, "--join"):
        return kept
    kept = _without(_without(kept, "--port"), "--out")
    kept += ["--port", str(port), "--out", folder]
    return kept if _RESUME in kept else [*kept, _RESUME]


def is_first_server(arguments: Sequence[str]) -> bool:
    """Whether the supervisor lives in this process."""
    return arguments[0] == "server" and not _has(arguments, "--join")


def _has(arguments: Sequence[str], option: str) -> bool:
    return any(argument == option or argument.startswith(f"{option}=") for argument in arguments)


def _without(arguments: Sequence[str], option: str) -> list[str]:
    """Without an option and its value, in either way of writing it."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == option:
            skip = True
        elif not argument.startswith(f"{option}="):
            kept.append(argument)
    return kept
