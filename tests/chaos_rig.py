"""A cluster of real psedge processes that tests and benchmarks break on purpose.

Supervisor apart, servers, workers: on loopback, or each in a network namespace of its own where
root asks for it. Every process is ended by its id when the `with` is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec
from processes import PATIENCE_SECONDS, Process

from psedge.protocol.address import Address, parse_join
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.bundle import unpack
from psedge.protocol.calls import ask, ask_bytes
from psedge.protocol.errors import PsedgeError
from psedge.protocol.messages import SHARD_STATE, STATUS, STOP, Acknowledged, Stop
from psedge.protocol.shards import Progress, ShardOrder
from psedge.protocol.status import Status

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

from real_links import Host, Link, RealNetwork  # noqa: E402

T = TypeVar("T")
#: Where further servers and workers of a namespace run, and where the test itself asks from.
DESK = "desk"
GIGABIT = Link(941e6)
_CLONE_NEWNET = 0x4000_0000
_READY = re.compile(r"psedge server ready at (http://\S+)")
_JOIN = re.compile(r"psedge worker --join (\S+)")


class Node:
    """One process of the cluster that can be ended and started anew with the same command line."""

    def __init__(
        self, name: str, arguments: Sequence[object], folder: Path, prefix: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.arguments = [str(argument) for argument in arguments]
        self._folder = folder
        self._prefix = list(prefix)
        self.starts: list[Process] = []

    @property
    def process(self) -> Process:
        return self.starts[-1]

    @property
    def running(self) -> bool:
        return bool(self.starts) and self.process.popen.poll() is None

    def start(self, *more: str) -> Process:
        """more: arguments that only this start has, such as --resume."""
        log = self.name if not self.starts else f"{self.name}.{len(self.starts) + 1}"
        arguments = [*self.arguments, *more]
        self.starts.append(Process(arguments, self._folder, log, prefix=self._prefix))
        return self.process

    def kill(self) -> float:
        """SIGKILL; returns the moment, in monotonic seconds."""
        moment = time.monotonic()
        self.process.send(signal.SIGKILL)
        self.process.popen.wait()
        return moment

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """It stands still, as on SIGSTOP."""
        self.process.send(signal.SIGSTOP)
        try:
            yield
        finally:
            if self.running:
                self.process.send(signal.SIGCONT)

    def output(self) -> str:
        """Of all starts."""
        return "".join(process.output() for process in self.starts)

    def close(self) -> None:
        for process in self.starts:
            process.close()


class Desk:
    """Asks the supervisor, from a thread that lives in the cluster's network."""

    def __init__(self, namespace: str | None = None) -> None:
        self._namespace = namespace
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="desk", daemon=True)
        self._thread.start()
        self._transport = AiohttpTransport()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    def status(self, address: Address, timeout_seconds: float = 5.0) -> Status:
        """Raises PsedgeError when the supervisor does not answer."""
        return self.run(
            ask(
                self._transport,
                address,
                STATUS,
                Acknowledged(),
                Status,
                timeout_seconds=timeout_seconds,
            )
        )

    def states(self, server: Address) -> list[ShardOrder]:
        """Of every shard whose primary a server is."""
        body = self.run(
            ask_bytes(
                self._transport,
                server,
                SHARD_STATE,
                [msgspec.json.encode(Acknowledged())],
                limit_bytes=2**30,
                timeout_seconds=10.0,
            )
        )
        found = []
        while len(body):
            stop = 8 + int.from_bytes(body[:8], "little")
            found.append(unpack(body[8:stop], ShardOrder)[0])
            body = body[stop:]
        return found

    def stop(self, address: Address) -> None:
        """End the run in order."""
        self.run(ask(self._transport, address, STOP, Stop("the benchmark is over"), Acknowledged))

    def close(self) -> None:
        self.run(self._transport.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _serve(self) -> None:
        if self._namespace is not None:
            with Path("/var/run/netns", self._namespace).open() as namespace:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"cannot enter {self._namespace}")
        self._loop.run_forever()


class ChaosCluster:
    """Use it in a `with`; `start` brings everybody up.

    config: TOML; `supervisor_apart` and the numbers of servers and workers are added to it.
    stores: folders of the servers' logs by server name, None for servers that keep none.
    network: where each process gets a host of its own; None: loopback.
    worker_script: what workers are, of `benchmarks/`; `record` then says what one did.
    """

    def __init__(
        self,
        folder: Path,
        config: str,
        *,
        servers: int = 2,
        workers: int = 2,
        overrides: Sequence[str] = (),
        stores: Callable[[str], Path] | None = None,
        network: RealNetwork | None = None,
        link: Link = GIGABIT,
        worker_script: str = "",
        worker_arguments: Sequence[object] = (),
    ) -> None:
        self.folder = folder
        self._config = folder / "experiment.toml"
        self._config.write_text(config)
        (folder / "home").mkdir(exist_ok=True)
        self._overrides = [
            "cluster.supervisor_apart=true",
            f"cluster.servers={servers}",
            f"cluster.workers={workers}",
            *overrides,
        ]
        self._stores = stores
        self.network = network
        self._link = link
        self._worker_script = worker_script
        self._worker_arguments = worker_arguments
        self._count = servers, workers
        self.hosts: dict[str, Host] = {}
        self.supervisor: Node
        self.servers: dict[str, Node] = {}
        self.workers: dict[str, Node] = {}
        self.join = ""

    def __enter__(self) -> ChaosCluster:
        desk = None
        if self.network is not None:
            desk = self.network.add_host(DESK, self._link).namespace
        self.desk = Desk(desk)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for node in self.nodes():
            node.close()
        self.desk.close()

    @property
    def run_folder(self) -> Path:
        return self.folder / "run"

    @property
    def address(self) -> Address:
        return parse_join(self.join)

    def nodes(self) -> list[Node]:
        first = [self.supervisor] if hasattr(self, "supervisor") else []
        return [*first, *self.servers.values(), *self.workers.values()]

    def start(self) -> None:
        """Bring up the supervisor, then servers and workers all at the same time."""
        self.start_supervisor()
        for number in range(self._count[0]):
            self.add_server(f"server-{number}")
        for number in range(self._count[1]):
            self.add_worker(f"worker-{number}")

    def start_supervisor(self) -> None:
        overrides = [part for each in self._overrides for part in ("--set", each)]
        arguments = [self._config, *overrides, "--out", self.run_folder, *self._listen("boss")]
        self.supervisor = self._node("boss", ["-m", "psedge", "server", *arguments])
        process = self.supervisor.start()
        url = process.expect(_READY.pattern)[1]
        self.join = url if self.network is None else process.expect(_JOIN.pattern)[1]
        # Whoever comes back is found at the same place.
        arguments = self.supervisor.arguments
        arguments[arguments.index("--port") + 1] = url.rpartition(":")[2]

    def restart_supervisor(self) -> None:
        self.supervisor.start("--resume").expect(_READY.pattern)

    def add_server(self, name: str) -> Node:
        arguments = ["-m", "psedge", "server", "--join", self.join, *self._listen(name)]
        if self._stores is not None:
            arguments += ["--store", str(self.store(name))]
        node = self.servers[name] = self._node(name, arguments)
        node.start()
        return node

    def add_worker(self, name: str) -> Node:
        arguments: list[object]
        if self._worker_script:
            arguments = [BENCHMARKS / self._worker_script, "--record", self.record(name)]
        else:
            arguments = ["-m", "psedge", "worker", "--device", "cpu"]
        arguments += ["--join", self.join, "--name", name, *self._worker_arguments]
        node = self.workers[name] = self._node(name, arguments)
        node.start()
        return node

    def ledgers(self) -> dict[int, dict[int, Progress]]:
        """What the primaries have counted: by shard, then by the worker's number."""
        found: dict[int, dict[int, Progress]] = {}
        for server in self.status().servers:
            if server.shards:
                for order in self.desk.states(Address(server.url, self.address.token)):
                    assert order.state is not None
                    workers = {p.worker: p for p in order.state.workers}
                    found[order.assignment.shard] = workers
        return found

    def store(self, server: str) -> Path:
        """Where a server keeps its logs."""
        assert self._stores is not None
        return self._stores(server)

    def record(self, worker: str) -> Path:
        return self.folder / f"{worker}.record"

    def status(self) -> Status:
        return self.desk.status(self.address)

    def asked(self) -> Status | None:
        """None while the supervisor is away."""
        try:
            return self.desk.status(self.address, timeout_seconds=2.0)
        except PsedgeError:
            return None

    def until(
        self,
        condition: Callable[[Status], bool],
        what: str,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Status:
        """The first status that satisfies the condition; the supervisor may be away meanwhile."""
        deadline = time.monotonic() + patience_seconds
        while True:
            status = self.asked()
            if status is not None and condition(status):
                return status
            if status is not None and status.phase == "failed":
                raise AssertionError(f"the run failed while we waited for {what}: {status.reason}")
            if time.monotonic() > deadline:
                raise AssertionError(f"in vain: {what}; last seen {status}\n{self.logs()}")
            time.sleep(0.1)

    def logs(self, lines: int = 15) -> str:
        """The end of what every process has said."""
        return "\n".join(
            f"--- {node.name}\n" + "\n".join(node.output().splitlines()[-lines:])
            for node in self.nodes()
        )

    def _listen(self, name: str) -> list[str]:
        if self.network is None:
            return ["--port", "0"]
        return ["--host", self._host(name).address, "--port", "0"]

    def _host(self, name: str) -> Host:
        assert self.network is not None
        if name not in self.hosts:
            self.hosts[name] = self.network.add_host(name, self._link)
        return self.hosts[name]

    def _node(self, name: str, arguments: Sequence[object]) -> Node:
        prefix: list[str] = []
        if self.network is not None:
            prefix = self.network.command(self._host(name), [])
        return Node(name, arguments, self.folder, prefix)


def can_make_namespaces() -> str:
    """Empty if network namespaces can be made here, else why not."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with RealNetwork() as network:
            network.add_host("try", GIGABIT)
    except (OSError, RuntimeError) as error:
        return f"no network namespaces here: {error}"
    return ""
