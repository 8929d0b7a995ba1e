"""For tests of faults: the hosts of a small cluster, any fault on them, a world of notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from psedge.simulation.faults.hosts import Hosts
from psedge.simulation.faults.kinds import KINDS, LINK_FIELDS, Fault
from psedge.simulation.faults.plan import FaultPlan
from psedge.simulation.faults.random_plan import RandomFaults

HOSTS = Hosts(workers=("pi-1", "pi-2", "pi-3"), servers=("server-0", "server-1"))

_NAMES = st.sampled_from(["workers", "servers", "supervisor", "all", *HOSTS.all])
_TARGETS = _NAMES | st.lists(_NAMES, min_size=1, max_size=3).map(tuple)
_SPANS = st.none() | st.floats(0.001, 1e6)
_MOMENTS = st.sampled_from(["training", "join pi-2", "push 500", "checkpoint 3", "snapshot 1"])
_TIMES = st.one_of(
    st.fixed_dictionaries({"at": st.floats(0, 1e6)}),
    st.fixed_dictionaries({"after": _MOMENTS}, optional={"delay": st.floats(0, 1e3)}),
)
_PARTICULARS: dict[str, st.SearchStrategy[Any]] = {
    "on": _TARGETS,
    "peer": _TARGETS,
    "between": st.permutations(HOSTS.all).map(lambda names: (names[0], tuple(names[1:3]))),
    "one_way": st.booleans(),
    "seconds": _SPANS,
    "restart_after": _SPANS,
    "factor": st.floats(1, 1e3),
    "path": st.text(max_size=5),
    "by_seconds": st.floats(1, 1e9),
    "drift": st.floats(-0.5, 0.5),
    "bits_per_second_factor": st.floats(0.001, 2),
    "delay_seconds": st.floats(0, 1),
    "jitter_seconds": st.floats(0, 1),
    **{name: st.floats(0, 1) for name in LINK_FIELDS[3:]},
}
_RANDOM = st.builds(
    RandomFaults,
    rates=st.dictionaries(
        _NAMES, st.dictionaries(st.sampled_from(list(KINDS)), st.floats(0, 50)), min_size=1
    ),
    per=st.sampled_from(["host-hour", "run"]),
    start=st.floats(0, 10),
    stop=st.floats(10.5, 1e3),
    seconds=st.tuples(st.floats(0.01, 1), st.floats(1, 100)),
)


@st.composite
def faults(draw: st.DrawFn) -> Fault:
    """Any fault that a plan may hold."""
    type_ = KINDS[draw(st.sampled_from(list(KINDS)))]
    given = {
        name: draw(_PARTICULARS[name]) for name in type_.__struct_fields__ if name in _PARTICULARS
    }
    return type_(**given, **draw(_TIMES))


@st.composite
def plans(draw: st.DrawFn) -> FaultPlan:
    return FaultPlan(tuple(draw(st.lists(faults(), max_size=4))), draw(st.none() | _RANDOM))


@dataclass
class NotedDisk:
    full: bool = False
    slow_factor: float = 1.0
    rotten: list[str] = field(default_factory=list)

    def rot(self, path_part: str = "") -> str | None:
        self.rotten.append(path_part)
        return path_part or None


@dataclass
class NotedClock:
    skew_seconds: float = 0.0
    drift: float = 0.0

    def set_drift(self, drift: float) -> None:
        self.drift = drift


class NotedNetwork:
    """Keeps links as they are and notes the rest."""

    def __init__(self, note: Any) -> None:
        self.links: dict[str, dict[str, float]] = {}
        self._note = note
        self._keys = 0

    def change_link(self, host: str, **fields: float) -> None:
        self.links[host] = fields

    def restore_link(self, host: str) -> None:
        self.links.pop(host, None)

    def partition(
        self, sources: Sequence[str], targets: Sequence[str], *, both_ways: bool = True
    ) -> int:
        arrow = "<>" if both_ways else ">"
        self._note("cut", f"{','.join(sources)} {arrow} {','.join(targets)}")
        self._keys += 1
        return self._keys

    def heal(self, key: int) -> None:
        self._note("heal", str(key))

    def reset_connections(self, host: str, peer: str | None = None) -> None:
        self._note("reset", host if peer is None else f"{host} {peer}")

    def half_open(self, host: str, peer: str | None = None) -> None:
        self._note("forget", host if peer is None else f"{host} {peer}")


class NotedWorld:
    """A Surgery that does nothing but write down what it is asked for.

    notes: (virtual seconds, what, whom). now: virtual seconds.
    """

    def __init__(self, now: Any, hosts: Hosts = HOSTS) -> None:
        self.notes: list[tuple[float, str, str]] = []
        self.hosts = hosts
        self.network = NotedNetwork(self._note)
        self.disks = {host: NotedDisk() for host in hosts.all}
        self.clocks = {host: NotedClock() for host in hosts.all}
        self._now = now

    def _note(self, what: str, whom: str) -> None:
        self.notes.append((self._now(), what, whom))

    def record(self, kind: str, node: str, text: str = "", *, notable: bool = False) -> None:
        """As a trace does."""
        assert kind == "fault"
        assert notable
        self._note("trace", text)

    def untraced(self) -> list[tuple[float, str, str]]:
        return [note for note in self.notes if note[1] != "trace"]

    def crash(self, host: str) -> None:
        self._note("crash", host)

    def power_cut(self, host: str) -> None:
        self._note("power-cut", host)

    def leave(self, host: str) -> None:
        self._note("leave", host)

    def start(self, host: str) -> None:
        self._note("start", host)

    def freeze(self, host: str) -> None:
        self._note("freeze", host)

    def thaw(self, host: str) -> None:
        self._note("thaw", host)

    def slow(self, host: str, factor: float) -> None:
        self._note(f"slow {factor:g}", host)

    def disk(self, host: str) -> NotedDisk:
        return self.disks[host]

    def clock(self, host: str) -> NotedClock:
        return self.clocks[host]
