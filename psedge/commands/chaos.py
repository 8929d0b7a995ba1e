"""The command that breaks a cluster on purpose: `psedge chaos`."""

from __future__ import annotations

from collections.abc import Callable

import click

from psedge.chaos.strikes import FAULTS, ROLES
from psedge.commands import options


def _some_of(
    words: tuple[str, ...],
) -> Callable[[click.Context, click.Parameter, str], tuple[str, ...]]:
    """Reads some of a few words, with commas between them."""

    def read(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
        given = tuple(dict.fromkeys(part.strip() for part in value.split(",")))
        for word in given:
            if word not in words:
                raise click.BadParameter(f"{word!r} is none of {', '.join(words)}")
        return given

    return read


@click.command()
@options.join
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="What is struck, when, and for how long is drawn from it.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="How long to go on; it ends with the run in any case.",
)
@click.option(
    "--every",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Peace between all being whole again and the next strike.",
)
@click.option(
    "--roles",
    metavar="ROLE,...",
    callback=_some_of(ROLES),
    default=",".join(ROLES),
    show_default=True,
    help="Whom to strike.",
)
@click.option(
    "--faults",
    metavar="FAULT,...",
    callback=_some_of(FAULTS),
    default=",".join(FAULTS),
    show_default=True,
    help="kill: SIGKILL, and start it again after a moment. pause: SIGSTOP, SIGCONT. throttle: "
    "let it run a fifth of the time.",
)
def chaos(
    join: str,
    seed: int,
    minutes: float,
    every: float,
    roles: tuple[str, ...],
    faults: tuple[str, ...],
) -> int:
    """Kill, pause and throttle the processes of a test cluster, and see that it keeps its promises.

    Strikes one process after the other of the run behind --join, all of which must be yours and
    on this machine; waits each time until everybody has a place again and training goes on, and
    before the first one until it has begun. Checks from outside that
    nothing that was counted is lost, that each shard has one primary in a term, and that every
    sample of an epoch is visited exactly once. Ends with a verdict and with 1 if a promise was
    broken. Ctrl-C mends what is broken and ends.

    \b
    Examples:
      psedge chaos --join http://127.0.0.1:7700
      psedge chaos --join http://127.0.0.1:7700 --roles worker,supervisor --faults kill
      psedge chaos --join http://127.0.0.1:7700 --seed 7 --minutes 30 --every 20
    """
    from psedge.chaos.run import ChaosOrder, run_chaos

    return run_chaos(
        ChaosOrder(
            join=join,
            seed=seed,
            minutes=minutes,
            roles=roles,  # type: ignore[arg-type]
            faults=faults,  # type: ignore[arg-type]
            every=every,
        )
    )
