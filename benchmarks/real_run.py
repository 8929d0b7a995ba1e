"""One run of real processes on real links: what a config says, each host in its own namespace.

Servers are `psedge server`; workers are `paced_worker.py`, so that each is as slow as its profile.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from real_links import Host, Link, RealNetwork, Traffic

from psedge.compression.table import codec_named
from psedge.config import Experiment
from psedge.protocol.layout import Slice, TensorSlice
from psedge.simulation.network.links import LinkProfile
from psedge.simulation.placement import server_places, worker_places
from psedge.worker.imports import AllowList
from psedge.worker.models.table import build

_PSEDGE = ("-m", "psedge")
_PACED = Path(__file__).parent / "paced_worker.py"
#: Starting Python and torch on a busy machine, and the run itself.
START_SECONDS, RUN_SECONDS, END_SECONDS = 90.0, 300.0, 30.0
#: If this machine computed so much longer than the devices, the figures are not theirs.
LATE_SHARE = 0.05
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class RealRun:
    """samples_per_second, bytes_pushed, bytes_pulled: of result.json.

    servers: what each server's link carried. links: measured time over expected of each checked
    payload. late: the largest share by which a worker was slower than its profile.
    """

    samples_per_second: float
    bytes_pushed: int
    bytes_pulled: int
    pushes: int
    seconds: float
    servers: tuple[Traffic, ...]
    links: tuple[float, ...]
    late: float


def run_for_real(config: Path, experiment: Experiment, folder: Path, data: Path) -> RealRun:
    """folder: new; receives the run and the logs.

    Raises RuntimeError when a process fails, or what was measured is not to be believed.
    """
    config, folder, data = config.resolve(), folder.resolve(), data.resolve()
    folder.mkdir(parents=True)
    cluster = experiment.cluster
    with RealNetwork() as network, ExitStack() as stack:
        servers = [network.add_host(p.name, _link(p.link)) for p in server_places(cluster)]
        workers = [(p, network.add_host(p.name, _link(p.link))) for p in worker_places(cluster)]
        payload = _payload_bytes(experiment)
        checked = {place.link.name: host for place, host in workers}
        ways = [(host, servers[0]) for host in checked.values()]
        links = [network.check(a, b, payload) for ends in ways for a, b in (ends, ends[::-1])]
        before = [network.traffic(server) for server in servers]
        processes = _Processes(network, folder, stack)
        first = processes.start(
            servers[0],
            "server-0",
            [*_PSEDGE, "server", str(config), "--host", servers[0].address, "--data", str(data),
             "--out", str(folder / "run")],
        )  # fmt: skip
        join = first.expect(r"psedge worker --join (\S+)")
        for index, server in enumerate(servers[1:], 1):
            arguments = [*_PSEDGE, "server", "--join", join, "--host", server.address]
            processes.start(server, f"server-{index}", arguments)
        started = [
            processes.start(
                host,
                place.name,
                [str(_PACED), str(config), "--data", str(data), "--join", join, "--profile",
                 place.profile.name, "--name", place.name, "--number", str(number)],
            )
            for number, (place, host) in enumerate(workers)
        ]  # fmt: skip
        processes.wait_for(first, RUN_SECONDS)
        for worker in started:
            processes.wait_for(worker, END_SECONDS)
        late = max(_late(worker) for worker in started)
        after = [network.traffic(server) for server in servers]
    result = json.loads((folder / "run" / "result.json").read_text())
    return RealRun(
        result["samples_per_second"],
        result["bytes_pushed"],
        result["bytes_pulled"],
        result["pushes_applied"],
        result["seconds"],
        tuple(
            Traffic(b.sent_bytes - a.sent_bytes, b.received_bytes - a.received_bytes)
            for a, b in zip(before, after, strict=True)
        ),
        tuple(links),
        late,
    )


class _Started:
    """One Python process on a host; everything it prints goes to one log."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def expect(self, pattern: str) -> str:
        """The first group of the first match in what it prints."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            found = re.search(pattern, self.log.read_text())
            if found:
                return found[1]
            time.sleep(_LOOK_SECONDS)
        raise RuntimeError(f"{self.log.stem} did not start:\n{self.log.read_text()}")

    def ended(self) -> bool:
        """Raises RuntimeError if it failed."""
        if self.process.poll():
            raise RuntimeError(f"{self.log.stem} failed:\n{self.log.read_text()}")
        return self.process.poll() is not None

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class _Processes:
    """Whatever is started here is gone when `stack` closes."""

    def __init__(self, network: RealNetwork, folder: Path, stack: ExitStack) -> None:
        self._network = network
        self._folder = folder
        self._stack = stack
        self._all: list[_Started] = []

    def start(self, host: Host, name: str, arguments: Sequence[str]) -> _Started:
        command = self._network.command(host, [sys.executable, *arguments])
        started = _Started(command, self._folder / f"{name}.log")
        self._stack.callback(started.end)
        self._all.append(started)
        return started

    def wait_for(self, awaited: _Started, seconds: float) -> None:
        """Raises RuntimeError as soon as any of them fails, or when it takes longer."""
        until = time.monotonic() + seconds
        while not awaited.ended():
            for each in self._all:
                each.ended()
            if time.monotonic() > until:
                raise RuntimeError(f"{awaited.log.stem} does not end:\n{awaited.log.read_text()}")
            time.sleep(_LOOK_SECONDS)


def _late(worker: _Started) -> float:
    late = float(json.loads(worker.log.read_text().splitlines()[-1])["late"])
    if late > LATE_SHARE:
        raise RuntimeError(
            f"{worker.log.stem} was {100 * late:.0f} % slower than its profile: this machine is "
            "too busy, or too slow, to stand for it"
        )
    return late


def _link(profile: LinkProfile) -> Link:
    if profile.shared or profile.loss or profile.jitter_seconds:
        raise RuntimeError(
            f"the link {profile.name} is shared, lossy or uneven, which tc's tbf cannot make: "
            "take 20mbit, 100mbit or gbe"
        )
    return Link(profile.bits_per_second, profile.buffer_bytes)


def _payload_bytes(experiment: Experiment) -> int:
    """Of one push to one server."""
    assert experiment.model is not None
    model = build(experiment.model, AllowList(()), experiment.seed)
    parameters = sum(p.numel() for p in model.parameters()) // experiment.cluster.servers
    codec = codec_named(experiment.compression.push)
    return codec.payload_limit(Slice(0, parameters, (TensorSlice(0, parameters, parameters),)))
