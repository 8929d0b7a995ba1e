"""The virtual world with many workers: how fast it is, and what a worker costs the supervisor.

Each worker is a Pi 3B+ that takes two local steps of 15 s per push to 16 servers, and shows a sign
of life every 5 s; 10 % of them leave in an hour, and as many come. They come in over the first 30
virtual seconds; figures are of the time after that.

    python benchmarks/ten_thousand_workers.py                      # 100 to 10,000 workers
    python benchmarks/ten_thousand_workers.py --workers 100,1000   # only so many
    python benchmarks/ten_thousand_workers.py --light --plot docs/images/supervisor-scale.png

Light workers compute and encode nothing, and push to one shard only: the supervisor hears from them
what it hears from real ones, in a fraction of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import resource
import subprocess
import sys
import time
import types
from collections import Counter, defaultdict
from collections.abc import Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import Any

from psedge.config import Experiment
from psedge.protocol.calls import ask, ask_bytes
from psedge.protocol.messages import (
    CLAIM,
    EXCHANGE,
    EXPERIMENT,
    HEARTBEAT,
    JOIN,
    LEAVE,
    Acknowledged,
    Claim,
    ClaimReply,
    ExperimentQuery,
    Heartbeat,
    HeartbeatReply,
    Join,
    JoinReply,
    Leave,
)
from psedge.protocol.messages import Experiment as ExperimentReply
from psedge.protocol.ports import Handler, Incoming, Reply
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION, Flag, Header, Kind, encode_header
from psedge.server.service import ShardService
from psedge.simulation import nodes
from psedge.simulation.host import Host
from psedge.simulation.outcome import Order, Progress
from psedge.simulation.run import simulate
from psedge.simulation.work import ProblemWork
from psedge.simulation.world import World
from psedge.supervisor.fleet import Fleet
from psedge.supervisor.service import Supervisor
from psedge.toml_config import load_config

SIZES = (100, 300, 1_000, 3_000, 10_000)
SERVERS = 16
LOCAL_STEPS = 2
#: A Pi 3B+ takes 15 s for as many.
BATCH_SIZE = 179
ARRIVAL_SECONDS = 30.0
#: When the last to arrive have joined and pushed once.
STEADY_SECONDS = 65.0
CHURN_PER_HOUR = 0.1
#: Signs of life of a light worker between two pushes.
PUSH_BEATS = 6

#: Taken before the simulation forbids everyone to read clocks.
_cpu_seconds = time.process_time
_real_seconds = time.perf_counter


class Meter:
    """Processor seconds and calls by name, of coroutines that take turns with others."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()

    def handler(self, name: str, handler: Handler) -> Handler:
        async def metered(incoming: Incoming) -> Reply:
            reply: Reply = await self.run(name, handler(incoming))
            return reply

        return metered

    async def run(self, name: str, coroutine: Any) -> Any:
        self.calls[name] += 1
        return await self._steps(name, coroutine)

    @types.coroutine
    def _steps(self, name: str, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Every stretch of `coroutine` between two of its waits, by the clock."""
        step = partial(coroutine.send, None)
        while True:
            began = _cpu_seconds()
            try:
                waits_for = step()
            except StopIteration as end:
                return end.value
            finally:
                self.seconds[name] += _cpu_seconds() - began
            try:
                yield waits_for
            except BaseException as error:
                step = partial(coroutine.throw, error)
            else:
                step = partial(coroutine.send, None)

    def taken(self) -> tuple[dict[str, float], Counter[str]]:
        """Seconds and calls so far."""
        return dict(self.seconds), Counter(self.calls)


def put_meters(meter: Meter, found: list[Supervisor]) -> None:
    """Measure all that supervisor and servers do. found: receives the supervisor."""
    run, route, serve, tell = Supervisor.run, Supervisor.routes, ShardService.routes, Fleet._round

    def supervisor_routes(self: Supervisor) -> dict[str, Handler]:
        found.append(self)
        return {
            path: meter.handler(f"supervisor{path}", each) for path, each in route(self).items()
        }

    def server_routes(self: ShardService) -> dict[str, Handler]:
        return {path: meter.handler(path, each) for path, each in serve(self).items()}

    def supervise(self: Supervisor) -> Any:
        return meter.run("supervisor", run(self))

    def broadcast(self: Fleet, *arguments: Any) -> Any:
        return meter.run("supervisor broadcast", tell(self, *arguments))

    for owner, name, stand_in in (
        (Supervisor, "routes", supervisor_routes),
        (ShardService, "routes", server_routes),
        (Supervisor, "run", supervise),
        (Fleet, "_round", broadcast),
    ):
        setattr(owner, name, stand_in)


async def light_worker(world: World, host: Host) -> None:
    """What a real one says to the supervisor and to shard 0, and nothing else."""
    transport, session = world.network.transport(host.name), host.number
    hello = ExperimentQuery(__version__, WIRE_VERSION)
    digest = world.work.model.layout.digest()
    join = Join(
        __version__, WIRE_VERSION, host.name, session, digest, "light", True,
        dataset_samples=world.work.train_samples,
    )  # fmt: skip
    while True:
        experiment = await ask(transport, world.home, EXPERIMENT, hello, ExperimentReply)
        if experiment.phase != "waiting":
            break
        await asyncio.sleep(0.3)
    joined = await ask(transport, world.home, JOIN, join, JoinReply)
    samples = LOCAL_STEPS * BATCH_SIZE
    for beat in itertools.count(1):
        await asyncio.sleep(joined.heartbeat_seconds)
        sequence = beat // PUSH_BEATS
        message = Heartbeat(joined.worker, session, sequence, samples * sequence, 0.5, 12.0)
        await ask(transport, world.home, HEARTBEAT, message, HeartbeatReply)
        if beat % PUSH_BEATS == 0:
            if sequence % 4 == 1:
                claim = Claim(joined.worker, session, idle=False)
                await ask(transport, world.home, CLAIM, claim, ClaimReply)
            push = Header(
                Kind.EXCHANGE, 0, joined.worker, session, Flag.NONFINITE,
                term=joined.shards[0].term, sequence=sequence, samples=samples,
            )  # fmt: skip
            await ask_bytes(
                transport, world.home, EXCHANGE, [encode_header(push)], limit_bytes=2**20,
                timeout_seconds=40.0,
            )  # fmt: skip
        if host.leaving:
            await ask(transport, world.home, LEAVE, Leave(joined.worker, session), Acknowledged)
            return


def leave_light(self: World, host: str) -> None:
    """As `World.leave`: a light worker looks at this by itself."""
    self.host(host).leaving = True


def experiment_of(workers: int, until: float) -> Experiment:
    """They arrive in sixty groups; of those who leave and come, each is a group of its own."""
    kind = {"profile": "raspberry-pi-3b-plus", "link": "fast-ethernet"}
    steady = until - STEADY_SECONDS
    moving = max(1, round(workers * CHURN_PER_HOUR * steady / 3600))
    groups = 60
    devices: list[dict[str, Any]] = []
    for group in range(groups):
        count = (workers - moving) * (group + 1) // groups - (workers - moving) * group // groups
        if count:
            at = ARRIVAL_SECONDS * group / groups
            devices.append({**kind, "count": count, "joins_at": at})
    for index in range(moving):
        at = STEADY_SECONDS + steady * (index + 0.5) / moving
        devices += [{**kind, "leaves_at": at}, {**kind, "joins_at": at}]
    return load_config(
        {
            "name": "many",
            "model": {"factory": "mlp", "metrics": []},
            "data": {"dataset": "digits", "batch_size": BATCH_SIZE},
            "optimizer": {"lr": 0.05},
            "schedule": {"length": 1000, "unit": "epochs"},
            "sync": {"mode": "asp", "local_steps": LOCAL_STEPS},
            "compression": {"push": "q4", "pull": "q4", "pull_chain": "shared"},
            "cluster": {
                "servers": SERVERS,
                "server_link": "10gbe",
                "devices": devices,
                "wait_seconds": 0,
                "heartbeat_seconds": 5,
                "lease_seconds": 20,
                "range_batches": 4 * LOCAL_STEPS,
            },
        }
    )


def bytes_held(root: object, besides: set[int]) -> int:
    """Memory of everything that can only be reached from `root`. besides: ids not to enter."""
    seen, todo, total = set(besides), [root], 0
    while todo:
        found = todo.pop()
        if id(found) in seen or isinstance(found, type | types.ModuleType | types.FunctionType):
            continue
        seen.add(id(found))
        total += sys.getsizeof(found)
        todo += gc.get_referents(found)
    return total


def supervisor_bytes(supervisor: Supervisor) -> int:
    """What the supervisor knows of its workers: members, progress and data plan."""
    state = supervisor.state
    return sum(
        bytes_held(part, set()) for part in (state.membership, state.fleet.progress, state.plan)
    )


#: Progress, processor and real seconds, and what the meter shows.
Mark = tuple[Progress, float, float, dict[str, float], Counter[str]]


class Stopwatch:
    """Takes the time at the beginning of the steady part and at the end."""

    def __init__(self, meter: Meter) -> None:
        self.began = (_cpu_seconds(), _real_seconds())
        self.marks: list[Mark] = []
        self._meter = meter

    def __call__(self, progress: Progress) -> None:
        if progress.virtual_seconds >= STEADY_SECONDS:
            mark: Mark = (progress, _cpu_seconds(), _real_seconds(), *self._meter.taken())
            self.marks[1:] = [mark] if self.marks else []
            if not self.marks:
                self.marks.append(mark)


def measured(workers: int, seconds: float, *, light: bool) -> dict[str, float]:
    """One run: figures of its steady part, which lasts so many virtual seconds."""
    if light:
        nodes.worker = light_worker
        World.leave = leave_light  # type: ignore[method-assign]
    until = STEADY_SECONDS + seconds
    experiment = experiment_of(workers, until)
    work = ProblemWork(experiment, samples=workers * BATCH_SIZE * 64)
    meter = Meter()
    found: list[Supervisor] = []
    put_meters(meter, found)
    watch = Stopwatch(meter)
    order = Order(experiment, checkers=False, lanes=False, limit_seconds=until + 0.5)
    simulate(order, watch, work=work)
    first, last = watch.marks
    virtual = last[0].virtual_seconds - first[0].virtual_seconds
    cpu, real = last[1] - first[1], last[2] - first[2]
    spent = {name: seconds - first[3].get(name, 0.0) for name, seconds in last[3].items()}
    calls = last[4] - first[4]
    beats = calls[f"supervisor{HEARTBEAT}"]
    supervisor = sum(used for name, used in spent.items() if name.startswith("supervisor"))
    joins = last[3][f"supervisor{JOIN}"], last[4][f"supervisor{JOIN}"]
    return {
        "workers": workers,
        "live": last[0].workers,
        "startup_cpu_seconds": first[1] - watch.began[0],
        "startup_real_seconds": first[2] - watch.began[1],
        "virtual_per_real": virtual / real,
        "virtual_per_cpu": virtual / cpu,
        "exchanges_per_virtual_second": calls[EXCHANGE] / virtual,
        "cpu_microseconds_per_worker_second": 1e6 * cpu / virtual / workers,
        "exchange_microseconds": 1e6 * spent.get(EXCHANGE, 0.0) / max(calls[EXCHANGE], 1),
        "join_microseconds": 1e6 * joins[0] / max(joins[1], 1),
        "heartbeat_microseconds": 1e6 * spent[f"supervisor{HEARTBEAT}"] / max(beats, 1),
        "supervisor_microseconds_per_heartbeat": 1e6 * supervisor / max(beats, 1),
        "supervisor_bytes_per_worker": supervisor_bytes(found[0]) / workers,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def plot(rows: list[dict[str, float]], picture: Path) -> None:
    """What a worker costs the supervisor, over their number."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    workers = [row["workers"] for row in rows]
    for key, label in (
        ("supervisor_microseconds_per_heartbeat", "everything the supervisor does"),
        ("heartbeat_microseconds", "answering heartbeats"),
    ):
        left.plot(workers, [row[key] for row in rows], "o-", label=label)
    left.set_ylabel("processor time per heartbeat, µs")
    left.legend(loc="lower left", frameon=False)
    kilobytes = [row["supervisor_bytes_per_worker"] / 1000 for row in rows]
    right.plot(workers, kilobytes, "o-")
    right.set_ylabel("memory in the supervisor per worker, kB")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("workers")
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workers", default=",".join(map(str, SIZES)), help="several, with commas")
    parser.add_argument("--seconds", type=float, default=60.0, help="virtual, of the steady part")
    parser.add_argument("--plot", type=Path, help="where to put the picture")
    parser.add_argument("--rows", type=Path, help="keep figures there, and reuse those of others")
    parser.add_argument(
        "--light", action="store_true", help="workers that talk to supervisor and shard 0 alone"
    )
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(asked.one, asked.seconds, light=asked.light)))
        return
    rows: dict[int, dict[str, float]] = {}
    if asked.rows and asked.rows.exists():
        rows = {int(row["workers"]): row for row in json.loads(asked.rows.read_text())}
    for workers in map(int, asked.workers.split(",") if asked.workers else ()):
        # A process of its own for each, so that memory is that of this run alone.
        command = [sys.executable, __file__, "--one", str(workers), "--seconds", str(asked.seconds)]
        command += ["--light"] if asked.light else []
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows[workers] = row = json.loads(done.stdout)
        print("  ".join(f"{key} {value:,.2f}" for key, value in row.items()), flush=True)
        if asked.rows:
            asked.rows.write_text(json.dumps([rows[key] for key in sorted(rows)], indent=1))
    if asked.plot:
        plot([rows[key] for key in sorted(rows)], asked.plot)


if __name__ == "__main__":
    main()
