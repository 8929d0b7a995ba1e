"""The programs of the virtual world: `psedge server` and `psedge worker`, composed as there.

Only what they stand on differs: virtual clock, network and disk, seeded random bits, and a
processor whose work takes the device's time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from psedge.first_server import continued, serve_run
from psedge.hosting import HostedServer
from psedge.protocol.address import DEFAULT_PORT, Address
from psedge.protocol.ports import Reply
from psedge.simulation.host import Host
from psedge.simulation.processor import Processor
from psedge.simulation.seeds import bits_of
from psedge.simulation.watch import WatchedService, watched_session
from psedge.simulation.watched_storage import WatchedStorage
from psedge.simulation.work import Timed
from psedge.supervisor.checkpoint import CheckpointStore
from psedge.supervisor.service import Supervisor
from psedge.supervisor.setup import RunSetup
from psedge.work import Machine, Parts, Worker
from psedge.worker.trainer import Plan

if TYPE_CHECKING:
    from psedge.simulation.world import World

CPU = torch.device("cpu")
#: Name of a run whose experiment has none.
RUN = "simulated"


async def first_server(world: World, host: Host) -> None:
    """Supervise the run, from its last checkpoint if the disk holds one, and serve shards."""
    server = await _opened(world, host)
    own = Address(server.url)
    storage = WatchedStorage(host.disk, world.checkpoint_written, world.figures_recorded)
    keep = world.experiment.checkpoint.keep

    def note(text: str) -> None:
        world.trace.record("note", host.name, text, notable=True)

    checkpoint = await CheckpointStore(storage, keep, note).latest()
    if checkpoint is not None:
        note(f"continuing after {checkpoint.meta.samples:,} samples")
    setup = RunSetup(
        world.experiment.name or RUN,
        f"runs/{world.experiment.name or RUN}",
        world.experiment,
        continued(world.work.model, checkpoint),
        world.work.train_samples,
        world.work.evaluator,
        checkpoint,
    )
    supervisor = Supervisor(
        setup,
        storage,
        clock=host.clock,
        transport=world.network.transport(host.name),
        token="",
        notify=note,
        beside=server.incarnation,
    )
    host.supervisor = supervisor
    server.start(supervisor.routes())
    world.watch.tell("run_started", host.name, supervisor)
    try:
        await serve_run(supervisor, server, own)
        world.watch.tell("run_ended", host.name, supervisor, supervisor.current_status())
    finally:
        await server.close()


async def further_server(world: World, host: Host) -> None:
    """Serve shards for the supervisor, wherever it is."""
    server = await _opened(world, host)
    server.start()
    try:
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
        notify=lambda text: world.trace.record("note", host.name, text),
        session_type=watched_session(world.watch, world.trace, host.name, world.worker_hosts),
    )
    host.program = program
    machine = Machine(
        world.network.transport(host.name),
        host.clock,
        bits_of(world.seed, "bits", host.name, host.starts),
        processor.compute,
        processor.load,
        lambda threads: None,
        costs=host.device.speeds,
        name=host.place.profile.name,
    )
    await program.run(machine)


async def _opened(world: World, host: Host) -> HostedServer:
    service = WatchedService(host.clock, world.watch, world.trace, host.name, world.worker_hosts)

    def processing(path: str, request_bytes: int, reply: Reply) -> float:
        return host.device.request_seconds() + host.device.coding_seconds(service.work.drain())

    server = await HostedServer.open(
        host.name,
        DEFAULT_PORT,
        None,
        transport=world.network.transport(host.name),
        clock=host.clock,
        notify=lambda text: world.trace.record("note", host.name, text),
        random_bits=bits_of(world.seed, "bits", host.name, host.starts),
        service=service,
    )
    world.network.cpu[host.name] = processing
    return server
