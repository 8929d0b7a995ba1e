"""What devices did with their time, in shares: for pictures, for the terminal and for sums.

A core. Shares are arrays of shape (states, stretches of time): rows in the order of STATES, each
column adding up to 1, or to less where a device was not there yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: In the order in which pictures stack them.
STATES = ("computing", "transferring", "waiting", "away", "dead")

_DULL = {"waiting", "away"}

#: What devices do from a time on, in virtual seconds.
Lane = Sequence[tuple[float, str]]
Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Kind:
    """Hosts that are alike: a device profile, or the servers. hosts: in the order people expect."""

    name: str
    hosts: tuple[str, ...]

    @property
    def label(self) -> str:
        return self.name if len(self.hosts) == 1 else f"{self.name} × {len(self.hosts):,}"


def kinds_of(
    lanes: Mapping[str, Lane], profiles: Mapping[str, str], servers: Iterable[str] = ()
) -> list[Kind]:
    """The hosts by kind, in the order of `profiles`; hosts without a profile come last.

    Servers are among them only if there is more to see than that they wait for requests.
    """
    serving = set(servers)
    dull = {host for host in serving if not {state for _, state in lanes.get(host, ())} - _DULL}
    with_lane = set(lanes) - dull
    ordered = [host for host in profiles if host in with_lane]
    ordered += sorted(with_lane - set(ordered))
    found: dict[str, list[str]] = {}
    for host in ordered:
        kind = "server" if host in serving else profiles.get(host, "other")
        found.setdefault(kind, []).append(host)
    return [Kind(name, tuple(hosts)) for name, hosts in found.items()]


def shares(lane: Lane, edges: Shares) -> Shares:
    """The part of each stretch between neighbouring `edges` that a device spent in each state."""
    result = np.zeros((len(STATES), len(edges) - 1))
    if not lane:
        return result
    starts = np.array([at for at, _ in lane])
    stops = np.append(starts[1:], max(edges[-1], starts[-1]))
    names = [state for _, state in lane]
    points = np.append(starts, stops[-1])
    for row, state in enumerate(STATES):
        spent = (stops - starts) * [name == state for name in names]
        total = np.concatenate([[0.0], np.cumsum(spent)])
        result[row] = np.diff(np.interp(edges, points, total))
    return result / np.diff(edges)


def mean_shares(lanes: Sequence[Lane], edges: Shares) -> Shares:
    """The mean over several devices."""
    total = np.zeros((len(STATES), len(edges) - 1))
    for lane in lanes:
        total += shares(lane, edges)
    return total / max(1, len(lanes))


def use_of_time(lanes: Sequence[Lane], start: float, stop: float) -> dict[str, float]:
    """The mean share of each state between two times."""
    if stop <= start:
        return dict.fromkeys(STATES, 0.0)
    column = mean_shares(lanes, np.array([start, stop]))[:, 0]
    return dict(zip(STATES, (float(share) for share in column), strict=True))


def sampled(kind: Kind, lanes: Mapping[str, Lane], count: int, stop: float) -> tuple[str, ...]:
    """At most `count` hosts to show for all of a kind: those that failed most, then evenly spread.

    They come in the order of the kind's hosts.
    """
    if len(kind.hosts) <= count:
        return kind.hosts
    hurt = {host: use_of_time([lanes[host]], 0.0, stop)["dead"] for host in kind.hosts}
    worst = sorted((host for host in kind.hosts if hurt[host] > 0), key=lambda host: -hurt[host])
    chosen = set(worst[: (count + 1) // 2])
    others = [host for host in kind.hosts if host not in chosen]
    wanted = count - len(chosen)
    chosen |= {others[index * len(others) // wanted] for index in range(wanted)}
    return tuple(host for host in kind.hosts if host in chosen)
