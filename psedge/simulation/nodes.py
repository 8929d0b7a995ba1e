"""The programs of the virtual world: `psedge server` and `psedge worker`, composed as there.

Only what they stand on differs: virtual clock, network and disk, seeded random bits, and a
processor whose work takes the device's time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch

from psedge.first_server import continued, found_checkpoint, serve_run
from psedge.hosting import HostedServer
from psedge.protocol.address import DEFAULT_PORT, Address
from psedge.protocol.errors import ConfigError
from psedge.protocol.messages import Place
from psedge.protocol.ports import RandomBits, Reply
from psedge.protocol.shards import LogSettings
from psedge.run_folder import RUNS, SERVERS
from psedge.server.shard_log import ShardLog
from psedge.server.store import ServerStore
from psedge.simulation.disk_folder import DiskFolder
from psedge.simulation.host import Host
from psedge.simulation.processor import Processor
from psedge.simulation.seeds import bits_of, seed_of
from psedge.simulation.virtual_store import VirtualStore
from psedge.simulation.watch import WatchedService, watched_session
from psedge.simulation.watched_storage import WatchedStorage
from psedge.simulation.work import Timed
from psedge.supervisor.book import Book
from psedge.supervisor.checkpoint import CheckpointStore
from psedge.supervisor.service import Supervisor
from psedge.supervisor.setup import RunSetup
from psedge.work import Machine, Parts, Worker
from psedge.worker.control import SupervisorClient
from psedge.worker.trainer import Plan

if TYPE_CHECKING:
    from psedge.simulation.world import World

CPU = torch.device("cpu")
#: One worker's host in so many has no locks, so that runs see both ways of coming back.
HOSTS_PER_LOCKLESS = 4


async def first_server(world: World, host: Host) -> None:
    """Supervise the run, and serve shards beside unless it is to be apart.

    A host that has supervised before goes on with its run, as with `--resume`: with the servers
    that still train, else after the last checkpoint.
    """
    apart = world.experiment.cluster.supervisor_apart
    server = await _opened(world, host)
    if not apart:
        server.keep(_store(world, host, host.folder))
    own = Address(server.url)
    clock, note = host.clock, _note(world, host)
    folder = DiskFolder(host.disk, host.folder)
    storage = WatchedStorage(folder, world.checkpoint_written, world.figures_recorded)
    resumed = bool(await folder.names("."))
    from_checkpoint, host.from_checkpoint = resumed and host.from_checkpoint, False
    kept = await VirtualStore.open(folder, note)
    book = await Book.open(kept, clock, note, _bits(world, host, "book"))
    checkpoint = None
    if resumed:
        store = CheckpointStore(storage, world.experiment.checkpoint.keep, note)
        try:
            checkpoint = await found_checkpoint(
                store, book, Path(host.folder), note, from_checkpoint=from_checkpoint
            )
        except ConfigError:
            # There is nothing to go on with: the next one is to begin another run.
            host.begin_another_run()
            raise
    setup = RunSetup(
        Path(host.folder).name,
        host.folder,
        world.experiment,
        continued(world.work.model, checkpoint),
        world.work.train_samples,
        world.work.evaluator,
        checkpoint,
        from_checkpoint=from_checkpoint,
    )
    supervisor = Supervisor(
        setup,
        storage,
        clock=clock,
        transport=world.network.transport(host.name),
        token="",
        notify=note,
        beside=None if apart else server.incarnation,
        book=book,
    )
    host.supervisor = supervisor
    server.start(supervisor.routes())
    world.watch.tell("run_started", host.name, supervisor)
    try:
        await serve_run(supervisor, None if apart else server, own)
        world.watch.tell("run_ended", host.name, supervisor, supervisor.current_status())
    finally:
        await server.close()
        await book.close()


async def further_server(world: World, host: Host) -> None:
    """Serve shards for the supervisor, wherever it is."""
    server = await _opened(world, host)
    server.start()
    try:
        client = SupervisorClient(
            world.network.transport(host.name), host.clock, world.home, _note(world, host)
        )
        await client.reach()
        answer = await client.patiently(client.experiment)
        server.keep(_store(world, host, f"{RUNS}/{answer.run}"))
        await server.serve_for(world.home)
    finally:
        await server.close()


async def worker(world: World, host: Host) -> None:
    """Train until the run ends or the worker is asked to leave."""
    assert host.process is not None
    program: Worker | None = None
    processor = Processor(
        host.device,
        host.process,
        world.trace,
        lambda: None if program is None else program.session,
    )

    def parts(_: Plan) -> Parts:
        made = world.work.parts(
            host.number, lambda indices: world.watch.tell("batch_made", host.name, indices)
        )
        assert made.step is not None
        step = Timed(made.step, processor.charge, host.device.batch_seconds)
        return Parts(made.model, made.source, made.loss, step)

    program = Worker(
        world.home,
        CPU,
        host.name,
        parts,
        pace=1.0,
        notify=_note(world, host),
        session_type=watched_session(world.watch, world.trace, host.name, world.worker_hosts),
    )
    host.program = program
    machine = Machine(
        world.network.transport(host.name),
        host.clock,
        _bits(world, host, "bits"),
        processor.compute,
        processor.load,
        lambda threads: None,
        costs=host.device.speeds,
        name=host.place.profile.name,
        take_place=lambda run, name: _place(world, host),
    )
    await program.run(machine)


def _place(world: World, host: Host) -> Place | None:
    """A host runs one process at a time, and knows it unless its system has no locks."""
    locks = seed_of(world.seed, "locks", host.name) % HOSTS_PER_LOCKLESS != 0
    return Place(host.name, host.starts) if locks else None


async def _opened(world: World, host: Host) -> HostedServer:
    transport = world.network.transport(host.name)
    service = WatchedService(
        host.clock,
        world.watch,
        world.trace,
        host.name,
        world.worker_hosts,
        transport=transport,
        notify=_note(world, host),
    )

    def processing(path: str, request_bytes: int, reply: Reply) -> float:
        return host.device.request_seconds() + host.device.coding_seconds(service.work.drain())

    server = await HostedServer.open(
        host.name,
        DEFAULT_PORT,
        None,
        transport=transport,
        clock=host.clock,
        notify=_note(world, host),
        random_bits=_bits(world, host, "bits"),
        service=service,
    )
    world.network.cpu[host.name] = processing
    return server


def _store(world: World, host: Host, run_folder: str) -> ServerStore | None:
    """Where a server keeps its logs; None if the experiment wants none."""
    if world.experiment.durability.log == "off":
        return None
    folder = f"{run_folder}/{SERVERS}/{host.number}" + (
        f"-{host.stores}" if host.stores > 1 else ""
    )
    store = ScaledStore(
        DiskFolder(host.disk, folder), host.clock, _note(world, host),
        _bits(world, host, "store"), folder,
    )  # fmt: skip
    store.factor = world.work.log_factor
    return store


class ScaledStore(ServerStore):
    """With log files as large as the model. factor: see `Work.log_factor`."""

    factor = 1.0

    def log(self, shard: int, settings: LogSettings) -> ShardLog:
        return super().log(
            shard,
            msgspec.structs.replace(
                settings,
                segment_bytes=round(settings.segment_bytes * self.factor),
                snapshot_bytes=round(settings.snapshot_bytes * self.factor),
            ),
        )


def _note(world: World, host: Host) -> Callable[[str], None]:
    def note(text: str) -> None:
        world.trace.record("note", host.name, text, notable=host.serves)
        world.watch.tell("noted", host.name, text)

    return note


def _bits(world: World, host: Host, use: str) -> RandomBits:
    return bits_of(world.seed, use, host.name, host.starts)
